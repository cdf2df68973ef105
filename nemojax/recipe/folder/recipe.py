"""The whole recipe on real data files, stage by stage, each resumable.

tokenizer, pretraining on the 70/15/15 blend, Bradley-Terry reward model, code SFT,
general SFT, DPO, RPO rounds. Every policy is measured on the same held-out rows.
"""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from nemojax.data.records import PreferencePair
from nemojax.data.text.tokenizer import Tokenizer
from nemojax.io import workdir as workdirs
from nemojax.io.workdir import StageOutput, Workdir
from nemojax.models import forward
from nemojax.models.config import ModelConfig
from nemojax.parallel import fingerprint
from nemojax.recipe.folder import examples, measures, pretraining
from nemojax.recipe.folder.material import Material
from nemojax.recipe.folder.settings import Settings
from nemojax.recipe.miniature.policy import RewardScorer
from nemojax.recipe.miniature.trainer import History, Phase, Trainer
from nemojax.training import checkpoints
from nemojax.training.objectives import PreferenceConfig

PARAMS = "params"
CURVE_POINTS = 200


@dataclasses.dataclass
class Recipe:
    """Runs the stages in a work folder.

    Attributes:
      settings: every number.
      material: the rows.
      workdir: where the stages live.
      mesh: where the model runs.
      tell: called with the name and the result of each stage.
    """

    settings: Settings
    material: Material
    workdir: Workdir
    mesh: Mesh
    tell: Callable[[StageOutput], None] = lambda output: None

    def run(self) -> dict[str, StageOutput]:
        """Runs what is not finished; returns all stages by name, in order.

        Raises:
          nemojax.io.files.DataError: a stage is left without rows that fit.
        """
        self.stages: dict[str, StageOutput] = {}
        self._stage("tokenizer", self._tokenizer)
        self._stage("pretrain", self._pretrain)
        self._stage("reward_model", self._reward_model)
        for name, before, phase in (
            ("code_sft", "pretrain", self.settings.code_sft()),
            ("general_sft", "code_sft", self.settings.general_sft()),
        ):
            self._stage(name, functools.partial(self._sft, name, before, phase))
        self._stage("dpo", self._dpo)
        before = "dpo"
        for name in self.rpo_names:
            self._stage(name, functools.partial(self._rpo, name, before))
            before = name
        return self.stages

    @property
    def rpo_names(self) -> list[str]:
        """The stages of the RPO rounds."""
        return [f"rpo_{i + 1}" for i in range(self.settings.rpo_rounds)]

    def _stage(self, name: str, run: Callable[[Path], dict[str, Any]]) -> None:
        with workdirs.in_stage(name):
            if not (self.workdir.path / name).exists():
                workdirs.require_space(self.workdir.path, self._stage_bytes)
            self.stages[name] = self.workdir.stage(name, run)
        self.tell(self.stages[name])

    @property
    def _stage_bytes(self) -> int:
        """Of the disk, for one stage: parameters, and two checkpoints of the state."""
        config = self.settings.model(self.settings.vocab_size)
        init = functools.partial(forward.init, config)
        shapes = jax.eval_shape(init, jax.random.key(0))
        return 4 * forward.param_count(shapes) * (1 + 2 * 3)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The trained tokenizer."""
        return Tokenizer.load(self.stages["tokenizer"].directory / "tokenizer.model")

    @functools.cached_property
    def config(self) -> ModelConfig:
        """The model's sizes."""
        return self.settings.model(self.tokenizer.vocab_size)

    @functools.cached_property
    def trainer(self) -> Trainer:
        """Trains this recipe's model."""
        return Trainer(
            self.config,
            self.tokenizer,
            examples.TEMPLATE,
            self.mesh,
            self.settings.seed,
        )

    @functools.cached_property
    def fitted(self) -> examples.Fitted:
        """The rows that fit the context."""
        return examples.fit(self.settings, self.material, self.tokenizer)

    @functools.cached_property
    def measures(self) -> measures.Measures:
        """What every policy is measured on."""
        settings = self.settings
        texts = {
            name: measures.texts(
                self.tokenizer, documents, settings.length, settings.validation_bytes
            )
            for name, documents in self.material.validation.items()
        }
        pairs = self.fitted.held_out_pairs["preferences"]
        return measures.Measures(
            self.config,
            self.mesh,
            settings.rows,
            settings.length,
            texts,
            self.fitted.held_out,
            measures.encoded_pairs(self.tokenizer, pairs),
        )

    def _init(self, num_attributes: int) -> Callable[[jax.Array], Any]:
        return functools.partial(
            forward.init, self.config, num_attributes=num_attributes
        )

    def _fresh(self, num_attributes: int = 0) -> Any:
        key = jax.random.key(self.settings.seed)
        return jax.jit(self._init(num_attributes))(key)

    def params(self, stage: str) -> Any:
        """The parameters that a stage left."""
        init = self._init(1 if stage == "reward_model" else 0)
        shapes = jax.eval_shape(init, jax.random.key(0))
        return checkpoints.load_params(self.stages[stage].directory / PARAMS, shapes)

    def _tokenizer(self, directory: Path) -> dict[str, Any]:
        tokenizer = examples.train_tokenizer(self.settings, self.material)
        tokenizer.save(directory / "tokenizer.model")
        return {
            "vocab_size": tokenizer.vocab_size,
            "fingerprint": tokenizer.fingerprint,
        }

    def _pretrain(self, directory: Path) -> dict[str, Any]:
        """Next-token training, with the validation text measured along the way."""
        rows, counts = examples.pretraining_rows(
            self.settings, self.material, self.tokenizer
        )
        fresh = self._fresh()
        untrained = self.measures.policy(fresh)
        params, history = pretraining.pretrain(
            self.trainer,
            fresh,
            rows,
            self.settings.pretrain(),
            directory,
            self.measures.bits_per_byte,
            self.settings.validations,
        )
        return {
            "untrained": untrained["metrics"],
            "validation": pretraining.validation(history),
            **self._trained(directory, params, history, counts),
        }

    def _reward_model(self, directory: Path) -> dict[str, Any]:
        """A Bradley-Terry head on the pretrained trunk, both trained."""
        pairs = [pair for rows in self.fitted.pairs.values() for pair in rows]
        counts = self.fitted.counts["reward_pairs"]
        counts = counts | {"from_preferences": len(self.fitted.pairs["preferences"])}
        head = self._fresh(num_attributes=1)["reward_head"]
        params, history = self.trainer.bradley_terry(
            {**self.params("pretrain"), "reward_head": head},
            pairs,
            self.settings.reward(),
            directory,
        )
        accuracy = measures.reward_accuracy(
            self._scorer(params), self.fitted.held_out_pairs
        )
        self._save(directory, params)
        return {
            "metrics": {"reward_accuracy": accuracy["all"]},
            "accuracy": accuracy,
            "history": _curve(history),
            "steps": len(history),
            "counts": counts,
        }

    def _scorer(self, params: Any) -> RewardScorer:
        return RewardScorer(
            self.config,
            params,
            self.mesh,
            self.tokenizer,
            examples.TEMPLATE,
            length=self.settings.length,
        )

    def _sft(
        self, name: str, start: str, phase: Phase, directory: Path
    ) -> dict[str, Any]:
        params, history = self.trainer.sft(
            self.params(start), self.fitted.demonstrations[name], phase, directory
        )
        return self._trained(directory, params, history, self.fitted.counts[name])

    def _dpo(self, directory: Path) -> dict[str, Any]:
        pairs = self.fitted.pairs["preferences"]
        phase, loss = self.settings.dpo()
        return self._prefer(directory, "general_sft", pairs, phase, loss)

    def _rpo(self, name: str, before: str, directory: Path) -> dict[str, Any]:
        """RPO on the same pairs, with the rewards that the reward model gives them.

        It was trained on these pairs, so it is surer of them than of new ones.
        """
        pairs = self.fitted.pairs["preferences"]
        rewards = measures.rewards(self._scorer(self.params("reward_model")), pairs)
        pairs = [
            dataclasses.replace(
                pair, chosen_reward=float(chosen), rejected_reward=float(rejected)
            )
            for pair, (chosen, rejected) in zip(pairs, rewards, strict=True)
        ]
        phase, loss = self.settings.rpo(name.replace("_", " ").upper())
        return self._prefer(directory, before, pairs, phase, loss)

    def _prefer(
        self,
        directory: Path,
        start: str,
        pairs: Sequence[PreferencePair],
        phase: Phase,
        loss: PreferenceConfig,
    ) -> dict[str, Any]:
        params, history = self.trainer.prefer(
            self.params(start), pairs, loss, phase, directory
        )
        counts = self.fitted.counts["preferences"]
        return self._trained(directory, params, history, counts)

    def _trained(
        self, directory: Path, params: Any, history: History, counts: dict[str, int]
    ) -> dict[str, Any]:
        measured = self.measures.policy(params)
        self._save(directory, params)
        return {
            **measured,
            "history": _curve(history),
            "steps": len(history),
            "counts": counts,
            "parameters": forward.param_count(params),
            "parameters_sha256": fingerprint.parameters_sha256(params),
        }

    def _save(self, directory: Path, params: Any) -> None:
        """Saves what later stages read; what a resumed attempt read goes."""
        checkpoints.save_params(directory / PARAMS, params)
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)


def _curve(history: History) -> list[dict[str, float]]:
    """A loss curve of at most about `CURVE_POINTS` points."""
    stride = max(1, len(history) // CURVE_POINTS)
    return [
        {"step": row["step"], "loss": float(f"{row['loss']:.5g}")}
        for row in history[::stride]
    ]

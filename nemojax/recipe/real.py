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

from nemojax.data import batches as data_batches
from nemojax.data.records import PreferencePair
from nemojax.data.tokenizer import Tokenizer
from nemojax.models import forward
from nemojax.models.config import ModelConfig
from nemojax.recipe import command, real_data, real_pretraining
from nemojax.recipe import real_examples as examples
from nemojax.recipe import real_measures as measures
from nemojax.recipe.policy import RewardScorer
from nemojax.recipe.real_data import Material
from nemojax.recipe.real_settings import Settings
from nemojax.recipe.trainer import History, Phase, Trainer
from nemojax.recipe.workdir import StageOutput, Workdir
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
          nemojax.data.files.DataError: a stage is left without rows that fit.
        """
        self.stages: dict[str, StageOutput] = {}
        self._stage("tokenizer", self._tokenizer)
        self._stage("pretrain", self._pretrain)
        self._stage("reward_model", self._reward_model)
        self._stage("code_sft", self._code_sft)
        self._stage("general_sft", self._general_sft)
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
        with command.in_stage(name):
            self.stages[name] = self.workdir.stage(name, run)
        self.tell(self.stages[name])

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
    def measures(self) -> measures.Measures:
        """What every policy is measured on."""
        settings, material = self.settings, self.material
        demonstrations = {}
        for name in measures.SFT_SETS:
            rows = getattr(material, name).held_out[: settings.held_out_rows]
            demonstrations[name] = self._examples(f"held-out {name}", rows)[0]
        return measures.Measures(
            self.config,
            self.mesh,
            settings.rows,
            settings.length,
            {
                name: measures.texts(
                    self.tokenizer, found, settings.length, settings.validation_bytes
                )
                for name, found in material.validation.items()
            },
            demonstrations,
            measures.encoded_pairs(self.tokenizer, self._held_out_pairs[0]),
        )

    @functools.cached_property
    def _training_pairs(self) -> tuple[list[PreferencePair], dict[str, int]]:
        return self._pairs("preferences", self.material.preferences.train)

    @functools.cached_property
    def _held_out_pairs(self) -> tuple[list[PreferencePair], dict[str, int]]:
        return self._pairs("held-out pairs", self.material.preferences.held_out)

    def _pairs(self, kind: str, rows: Sequence[PreferencePair]):
        found, counts = examples.fitting_pairs(
            self.tokenizer, rows, self.settings.length
        )
        self._require(kind, found)
        return found, counts

    def _examples(self, kind: str, rows):
        found, too_long = examples.fitting_examples(
            self.tokenizer, rows, self.settings.length
        )
        self._require(kind, found)
        return found, too_long

    def _require(self, kind: str, found: Sequence[Any]) -> None:
        if not found:
            reason = f"none is held out, or none fits {self.settings.length} tokens"
            raise real_data.nothing_left(kind, "the data folder", reason)

    def _shapes(self, num_attributes: int) -> Any:
        init = functools.partial(
            forward.init, self.config, num_attributes=num_attributes
        )
        return jax.eval_shape(init, jax.random.key(0))

    def params(self, stage: str) -> Any:
        """The parameters that a stage left."""
        shapes = self._shapes(1 if stage == "reward_model" else 0)
        return checkpoints.load_params(self.stages[stage].directory / PARAMS, shapes)

    def _fresh(self, num_attributes: int = 0) -> Any:
        init = functools.partial(
            forward.init, self.config, num_attributes=num_attributes
        )
        return jax.jit(init)(jax.random.key(self.settings.seed))

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
        params, history = real_pretraining.pretrain(
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
            "validation": real_pretraining.validation(history),
            **self._trained(directory, params, history, counts),
        }

    def _reward_model(self, directory: Path) -> dict[str, Any]:
        """A Bradley-Terry head on the pretrained trunk, both trained."""
        own, counts = self._training_pairs
        others, more = self._pairs("reward pairs", self.material.reward_pairs.train)
        pairs = [*own, *others]
        trunk = self.params("pretrain")
        head = self._fresh(num_attributes=1)["reward_head"]
        phase = self.settings.reward()
        params, history = self.trainer.bradley_terry(
            {**trunk, "reward_head": head}, pairs, phase, directory
        )
        held_out = {
            "preferences": self._held_out_pairs[0],
            "reward_pairs": examples.fitting_pairs(
                self.tokenizer,
                self.material.reward_pairs.held_out,
                self.settings.length,
            )[0],
        }
        accuracy = measures.reward_accuracy(self._scorer(params), held_out)
        self._save(directory, params)
        return {
            "metrics": {"reward_accuracy": accuracy["all"]},
            "accuracy": accuracy,
            "history": _curve(history),
            "steps": len(history),
            "counts": {
                "pairs": len(pairs),
                **{name: counts[name] + more[name] for name in counts},
            },
        }

    def _scorer(self, params: Any) -> RewardScorer:
        return RewardScorer(
            self.config,
            params,
            self.mesh,
            self.tokenizer,
            examples.TEMPLATE,
            rows=self.settings.rows,
            length=self.settings.length,
        )

    def _code_sft(self, directory: Path) -> dict[str, Any]:
        split = self.material.code_sft
        rows, too_long = self._examples("code_sft", split.train)
        counts = split.counts | {"too_long": too_long, "trained": len(rows)}
        return self._sft(directory, "pretrain", rows, self.settings.code_sft(), counts)

    def _general_sft(self, directory: Path) -> dict[str, Any]:
        """The other demonstrations, with a few rows of the code stage."""
        split = self.material.general_sft
        rows, too_long = self._examples("general_sft", split.train)
        code, _ = self._examples("code_sft", self.material.code_sft.train)
        order = data_batches.epoch_order(self.settings.seed, 0, len(code))
        replayed = [code[i] for i in order[: int(self.settings.code_share * len(rows))]]
        counts = split.counts | {
            "too_long": too_long,
            "trained": len(rows) + len(replayed),
            "from_code_stage": len(replayed),
        }
        phase = self.settings.general_sft()
        return self._sft(directory, "code_sft", rows + replayed, phase, counts)

    def _sft(
        self, directory: Path, start: str, rows, phase: Phase, counts: dict[str, int]
    ) -> dict[str, Any]:
        params, history = self.trainer.sft(self.params(start), rows, phase, directory)
        return self._trained(directory, params, history, counts)

    def _dpo(self, directory: Path) -> dict[str, Any]:
        pairs, counts = self._training_pairs
        phase, loss = self.settings.dpo()
        return self._prefer(directory, "general_sft", pairs, phase, loss, counts)

    def _rpo(self, name: str, before: str, directory: Path) -> dict[str, Any]:
        """RPO on the same pairs, with the rewards that the reward model gives them."""
        pairs, counts = self._training_pairs
        rewards = measures.rewards(self._scorer(self.params("reward_model")), pairs)
        pairs = [
            dataclasses.replace(
                pair, chosen_reward=float(chosen), rejected_reward=float(rejected)
            )
            for pair, (chosen, rejected) in zip(pairs, rewards, strict=True)
        ]
        phase, loss = self.settings.rpo(name.replace("_", " ").upper())
        return self._prefer(directory, before, pairs, phase, loss, counts)

    def _prefer(
        self,
        directory: Path,
        start: str,
        pairs: Sequence[PreferencePair],
        phase: Phase,
        loss: PreferenceConfig,
        counts: dict[str, int],
    ) -> dict[str, Any]:
        params, history = self.trainer.prefer(
            self.params(start), pairs, loss, phase, directory
        )
        split = self.material.preferences
        counts = split.counts | counts | {"trained": len(pairs)}
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
            "parameters_sha256": checkpoints.parameters_sha256(params),
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

"""The whole recipe on the embedded world, stage by stage, each resumable.

tokenizer, pretraining, reward model, synthetic data, code SFT, general SFT, reward
model on the policy's own answers, DPO, RPO rounds; every trained policy is evaluated
on held-out tasks. Control rows repeat the later stages without the filter and without
the preference loss.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from nemojax.data.text.tokenizer import Tokenizer
from nemojax.io import workdir as workdirs
from nemojax.io.workdir import StageOutput, Workdir
from nemojax.models import forward
from nemojax.parallel import fingerprint
from nemojax.recipe.miniature import data, evaluation, preferences
from nemojax.recipe.miniature.policy import Policy, RewardScorer
from nemojax.recipe.miniature.settings import REWARD_WEIGHTS, SFT_WEIGHTS, Settings
from nemojax.recipe.miniature.trainer import Phase, Trainer
from nemojax.tasks.miniature.grading import Task
from nemojax.training import checkpoints

PARAMS = "params"
POLICY_STAGES = ("code_sft", "general_sft", "dpo")


@dataclasses.dataclass
class Recipe:
    """Runs the stages in a work folder.

    Attributes:
      settings: every number.
      workdir: where the stages live.
      mesh: where the model runs.
    """

    settings: Settings
    workdir: Workdir
    mesh: Mesh

    def run(self) -> dict[str, StageOutput]:
        """Runs what is not finished; returns all stages by name, in order."""
        self.stages: dict[str, StageOutput] = {}
        self._stage("tokenizer", self._tokenizer)
        self._stage("pretrain", self._pretrain)
        self._stage("teacher", self._teacher)
        self._stage("reward_model", self._reward_model)
        self._stage("synthetic_data", self._synthetic_data)
        self._sft("code_sft", "pretrain")
        self._sft("general_sft", "code_sft")
        self._stage("policy_reward_model", self._policy_reward_model)
        self._preference_rounds("", 1.0)
        if self.settings.controls:
            self._sft("unfiltered_code_sft", "pretrain")
            self._sft("unfiltered_sft", "unfiltered_code_sft")
            self._preference_rounds("control_", 0.0)
        return self.stages

    def _stage(self, name: str, run) -> StageOutput:
        with workdirs.in_stage(name):
            self.stages[name] = self.workdir.stage(name, run)
        return self.stages[name]

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The trained tokenizer."""
        return Tokenizer.load(self.stages["tokenizer"].directory / "tokenizer.model")

    @functools.cached_property
    def tasks(self) -> list[Task]:
        """The held-out evaluation tasks."""
        return data.evaluation_tasks(self.settings)

    @property
    def trainer(self) -> Trainer:
        """Trains this recipe's model."""
        config = self.settings.model(self.tokenizer.vocab_size)
        return Trainer(
            config, self.tokenizer, data.TEMPLATE, self.mesh, self.settings.seed
        )

    def params(self, stage: str) -> Any:
        """The parameters that a stage left."""
        width = 5 if "reward_model" in stage else 0
        shapes = jax.eval_shape(
            functools.partial(forward.init, self.trainer.config, num_attributes=width),
            jax.random.key(0),
        )
        return checkpoints.load_params(self.stages[stage].directory / PARAMS, shapes)

    def policy(self, name: str, params: Any) -> Policy:
        """A model as something that answers."""
        return Policy(
            name,
            self.trainer.config,
            params,
            self.mesh,
            self.tokenizer,
            data.TEMPLATE,
        )

    def scorer(self, stage: str) -> RewardScorer:
        """The reward model of a stage as something that scores."""
        return RewardScorer(
            self.trainer.config,
            self.params(stage),
            self.mesh,
            self.tokenizer,
            data.TEMPLATE,
        )

    def _tokenizer(self, directory: Path) -> dict[str, Any]:
        tokenizer = data.train_tokenizer(self.settings)
        tokenizer.save(directory / "tokenizer.model")
        return {"vocab_size": tokenizer.vocab_size, "sha256": tokenizer.fingerprint}

    def _pretrain(self, directory: Path) -> dict[str, Any]:
        phase = self.settings.pretrain()
        rows, tokens = data.pretraining_rows(
            self.settings, self.tokenizer, phase.length
        )
        params = jax.jit(functools.partial(forward.init, self.trainer.config))(
            jax.random.key(self.settings.seed)
        )
        params, history = self.trainer.pretrain(params, rows, phase, directory)
        policy = self.policy("base", params)
        graded = evaluation.grade(
            self.tasks, evaluation.completions(policy, self.tasks)
        )
        result = self._trained(directory, params, history)
        return result | {
            "parameters": forward.param_count(params),
            "tokens_by_class": tokens,
            "completion_metrics": evaluation.family_metrics(self.tasks, graded),
            "completion_correct": graded["correct"],
        }

    def _teacher(self, directory: Path) -> dict[str, Any]:
        """The teacher on the evaluation tasks, one answer each."""
        rng = data.stream(self.settings, "teacher-evaluation")
        teacher = data.scripted_teacher(self.settings)
        graded = evaluation.grade(
            self.tasks, [teacher.answer(task, rng) for task in self.tasks]
        )
        return self._graded(directory, graded)

    def _reward_model(self, directory: Path) -> dict[str, Any]:
        rng = data.stream(self.settings, "reward-model")
        answered = data.teacher_responses(
            rng, self.settings.reward_prompts, "train", REWARD_WEIGHTS
        )
        held_out = data.teacher_responses(rng, self.settings.reward_held_out, "test")
        return self._train_reward(
            directory, self.params("pretrain"), answered, {"teacher": held_out}
        )

    def _policy_reward_model(self, directory: Path) -> dict[str, Any]:
        """Labels answers of the SFT policy too, as HelpSteer2 did with its models."""
        rng = data.stream(self.settings, "policy-reward-model")
        policy = self.policy("general_sft", self.params("general_sft"))
        own = preferences.policy_answers(
            policy, rng, self.settings.policy_reward_prompts, "train"
        )
        teacher = data.teacher_responses(
            rng, self.settings.reward_prompts, "train", REWARD_WEIGHTS
        )
        held_out = {
            "teacher": data.teacher_responses(
                rng, self.settings.reward_held_out, "test"
            ),
            "own": preferences.policy_answers(
                policy, rng, self.settings.reward_held_out, "test"
            ),
        }
        return self._train_reward(
            directory, self.params("general_sft"), teacher + own, held_out
        )

    def _train_reward(
        self, directory: Path, trunk: Any, answered, held_out
    ) -> dict[str, Any]:
        """Trains a reward head and its trunk; measures pairwise accuracy."""
        rng = data.stream(self.settings, f"labels-{len(answered)}")
        rows = data.annotated(rng, answered)
        fresh = jax.jit(
            functools.partial(forward.init, self.trainer.config, num_attributes=5)
        )(jax.random.key(self.settings.seed))
        head = fresh["reward_head"]
        head["bias"] = np.mean([row.labels for row in rows], axis=0, dtype=np.float32)
        params, history = self.trainer.reward(
            {**trunk, "reward_head": head}, rows, self.settings.reward(), directory
        )
        scorer = RewardScorer(
            self.trainer.config, params, self.mesh, self.tokenizer, data.TEMPLATE
        )
        accuracy = {
            name: preferences.pairwise(scorer, pairs)
            for name, pairs in held_out.items()
        }
        checkpoints.save_params(directory / PARAMS, params)
        return {
            "history": thin(history),
            "labels": len(rows),
            "pairwise_accuracy": accuracy,
        }

    def _synthetic_data(self, directory: Path) -> dict[str, Any]:
        """Teacher data for both SFT stages, filtered and (control) as it comes."""
        scorer = self.scorer("reward_model")
        statistics = {}
        for name, filtered in (("", scorer), ("unfiltered_", None)):
            if filtered is None and not self.settings.controls:
                continue
            for stage, weights, count in (
                ("code", {"code": 1.0}, self.settings.code_rows),
                ("general", SFT_WEIGHTS, self.settings.general_rows),
            ):
                rows, found = data.demonstrations(
                    self.settings, weights, count, f"{name}{stage}", filtered, directory
                )
                statistics[f"{name}{stage}"] = found
                data.save_demonstrations(directory / f"{name}{stage}.json", rows)
        return statistics

    def _sft(self, name: str, start: str) -> None:
        """One of the SFT stages; the name says which data and which phase."""
        prefix = "unfiltered_" if name.startswith("unfiltered") else ""
        general = not name.endswith("code_sft")
        phase = self.settings.general_sft() if general else self.settings.code_sft()
        phase = dataclasses.replace(phase, name=name.replace("_", " "))

        def run(directory: Path) -> dict[str, Any]:
            source = self.stages["synthetic_data"].directory
            code = data.load_demonstrations(source / f"{prefix}code.json")
            if general:
                rows = data.load_demonstrations(source / f"{prefix}general.json")
                examples = data.general_examples(
                    self.settings, self.tokenizer, rows, code
                )
            else:
                examples = [
                    data.chat_example(self.tokenizer, prompt, answer)
                    for prompt, answer in code
                ]
            params, history = self.trainer.sft(
                self.params(start), examples, phase, directory
            )
            result = self._evaluated(directory, name, params, history)
            if name == "code_sft":
                policy = self.policy(name, params)
                code_tasks = [t for t in self.tasks if t.family == "code"]
                texts = evaluation.completions(policy, code_tasks)
                graded = evaluation.grade(code_tasks, texts)
                result["completion_correct"] = graded["correct"]
            return result

        self._stage(name, run)

    def _preference_rounds(self, prefix: str, preference_weight: float) -> None:
        """DPO, then the RPO rounds; each starts at, and refers to, the one before."""
        before = "general_sft"
        names = ["dpo", *(f"rpo_{i + 1}" for i in range(self.settings.rpo_rounds))]
        for name in names:
            loss = self.settings.dpo() if name == "dpo" else self.settings.rpo()
            loss = dataclasses.replace(loss, preference_weight=preference_weight)
            phase = self.settings.prefer(f"{prefix}{name}".replace("_", " "))
            self._preference_stage(f"{prefix}{name}", name, before, loss, phase)
            before = f"{prefix}{name}"

    def _preference_stage(
        self, name: str, stream: str, before: str, loss, phase: Phase
    ) -> None:
        def run(directory: Path) -> dict[str, Any]:
            params = self.params(before)
            found = preferences.preference_data(
                self.settings,
                self.policy(before, params),
                self.scorer("policy_reward_model"),
                data.stream(self.settings, f"pairs-{stream}"),
                loss.loss,
            )
            after, history = params, []
            if found.pairs:  # a very weak policy may have no right answer to choose
                after, history = self.trainer.prefer(
                    params, found.pairs, loss, phase, directory
                )
            result = self._evaluated(directory, name, after, history)
            return result | {"pairs": len(found.pairs), "statistics": found.summary()}

        self._stage(name, run)

    def _evaluated(
        self, directory: Path, name: str, params: Any, history
    ) -> dict[str, Any]:
        policy = self.policy(name, params)
        graded = evaluation.grade(self.tasks, evaluation.answers(policy, self.tasks))
        return self._trained(directory, params, history) | self._graded(
            directory, graded
        )

    def _trained(self, directory: Path, params: Any, history) -> dict[str, Any]:
        checkpoints.save_params(directory / PARAMS, params)
        return {
            "steps": len(history),
            "history": thin(history),
            "parameters_sha256": fingerprint.parameters_sha256(params),
        }

    def _graded(self, directory: Path, graded: dict[str, Any]) -> dict[str, Any]:
        (directory / "answers.json").write_text(json.dumps(graded["texts"], indent=0))
        return {
            "metrics": evaluation.family_metrics(self.tasks, graded),
            "correct": graded["correct"],
        }


def thin(history: Sequence[dict[str, float]], most: int = 200) -> list[dict]:
    """At most `most` rows of a loss curve, evenly spread, rounded for the report."""
    stride = max(1, len(history) // most)
    return [
        {
            key: float(f"{value:.5g}") if isinstance(value, float) else value
            for key, value in row.items()
            if key not in ("seconds", "weight")
        }
        for row in history[::stride]
    ]

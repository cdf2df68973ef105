"""The whole recipe on the embedded world, stage by stage, each resumable.

tokenizer, pretraining, reward model, synthetic data, code SFT, general SFT, reward
model on the policy's own answers, DPO, RPO rounds; every trained policy is evaluated
on held-out tasks, and leaves a model folder, `STAGE/model`. Control rows repeat the
later stages without the filter and without the preference loss.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from nemojax.data.batching import examples
from nemojax.interop import model_folder
from nemojax.io import sealed
from nemojax.io.workdir import StageOutput
from nemojax.models import forward
from nemojax.parallel import fingerprint
from nemojax.recipe.align.stage import start_params
from nemojax.recipe.miniature import data, evaluation, preferences
from nemojax.recipe.miniature.policy import Policy
from nemojax.recipe.miniature.settings import (
    LENGTH,
    REWARD_WEIGHTS,
    SFT_WEIGHTS,
    MiniatureSettings,
)
from nemojax.recipe.pretrain import pretraining
from nemojax.recipe.stages import MODEL, TOKENIZER, Stages, curve
from nemojax.tasks.miniature.grading import Task
from nemojax.training import objectives, sources
from nemojax.training import stage as training
from nemojax.training.learning_rate import LearningRate
from nemojax.training.objectives import PreferenceConfig
from nemojax.training.optimizer import OptimizerConfig
from nemojax.training.programs import ByLayout
from nemojax.training.stage import Stage

PRETRAIN_BATCH = 8


@dataclasses.dataclass
class MiniatureRecipe(Stages):
    """Runs the stages in a work folder.

    Attributes:
      settings: Every number.
    """

    settings: MiniatureSettings

    def run(self) -> dict[str, StageOutput]:
        """Runs what is not finished; returns all stages by name, in order."""
        self.stage("tokenizer", self._tokenizer)
        self.stage("pretrain", self._pretrain)
        self.stage("teacher", self._teacher)
        self.stage("reward_model", self._reward_model)
        self.stage("synthetic_data", self._synthetic_data)
        self._sft("code_sft", "pretrain")
        self._sft("general_sft", "code_sft")
        self.stage("policy_reward_model", self._policy_reward_model)
        self._preference_rounds("", 1.0)
        if self.settings.controls:
            self._sft("unfiltered_code_sft", "pretrain")
            self._sft("unfiltered_sft", "unfiltered_code_sft")
            self._preference_rounds("control_", 0.0)
        return self.stages

    @functools.cached_property
    def tasks(self) -> list[Task]:
        """The held-out evaluation tasks."""
        return data.evaluation_tasks(self.settings)

    def _tokenizer(self, directory: Path) -> dict[str, Any]:
        tokenizer = data.train_tokenizer(self.settings)
        tokenizer.save(directory / TOKENIZER)
        return {"vocab_size": tokenizer.vocab_size, "sha256": tokenizer.fingerprint}

    def _pretrain(self, directory: Path) -> dict[str, Any]:
        """Trains on both phases of text, at one cosine, as the report's."""
        config = self.settings.model(self.tokenizer.vocab_size)
        batches, tokens = data.pretraining_batches(
            self.settings, self.tokenizer, PRETRAIN_BATCH
        )
        rate = LearningRate(2e-3, warmup=50)
        params = pretraining.fresh(config, self.settings.seed, self.options.layout)
        trained = training.run(
            Stage(
                "pretrain",
                config,
                ByLayout(objectives.language_model_objective, config),
                sources.Fixed(batches),
                functools.partial(rate.at, total=len(batches)),
                OptimizerConfig(beta2=0.98),
            ),
            params,
            directory,
            self.options,
        )
        files = {TOKENIZER: self.stages["tokenizer"].directory / TOKENIZER}
        model_folder.save(
            directory / MODEL, config, trained.params, files=files, exist_ok=True
        )
        policy = Policy(self.load_from(directory))
        graded = evaluation.grade(
            self.tasks, evaluation.completions(policy, self.tasks)
        )
        return {
            "steps": len(trained.history),
            "history": curve(trained.history),
            "parameters_sha256": fingerprint.parameters_sha256(trained.params),
            "parameters": forward.param_count(trained.params),
            "tokens_by_class": tokens,
            "completion_metrics": evaluation.family_metrics(self.tasks, graded),
            "completion_correct": graded["correct"],
        }

    def _teacher(self, directory: Path) -> dict[str, Any]:
        """Evaluates the teacher on the evaluation tasks, one answer each."""
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
            directory, "pretrain", answered, {"teacher": held_out}
        )

    def _policy_reward_model(self, directory: Path) -> dict[str, Any]:
        """Labels answers of the SFT policy too, as HelpSteer2 did with its models."""
        rng = data.stream(self.settings, "policy-reward-model")
        policy = Policy(self.load("general_sft"))
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
        return self._train_reward(directory, "general_sft", teacher + own, held_out)

    def _train_reward(
        self, directory: Path, start: str, answered, held_out
    ) -> dict[str, Any]:
        """Trains a reward head and its trunk; measures pairwise accuracy."""
        rng = data.stream(self.settings, f"labels-{len(answered)}")
        rows = data.annotated(rng, answered)
        model = self.load(start)
        stage = self.settings.stages()["reward"]
        params = start_params(stage, model)
        bias = np.mean([row.labels for row in rows], axis=0)
        params["reward_head"]["bias"] = jnp.asarray(bias)
        judge = dataclasses.replace(model, params=params)
        labelled = self.examples(rows, examples.labelled, "labels", LENGTH, values=5)
        result = self.train(directory, stage, judge, labelled)
        scorer = self.load_from(directory)
        accuracy = {
            name: preferences.pairwise(scorer, pairs)
            for name, pairs in held_out.items()
        }
        return result | {"labels": len(rows), "pairwise_accuracy": accuracy}

    def _synthetic_data(self, directory: Path) -> dict[str, Any]:
        """Makes teacher data for both SFT stages, filtered and (control) unfiltered."""
        scorer = self.load("reward_model")
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
        """Runs one of the SFT stages; the name says which data and settings."""
        prefix = "unfiltered_" if name.startswith("unfiltered") else ""
        general = not name.endswith("code_sft")

        def run(directory: Path) -> dict[str, Any]:
            source = self.stages["synthetic_data"].directory
            code = data.load_demonstrations(source / f"{prefix}code.json")
            if general:
                rows = data.load_demonstrations(source / f"{prefix}general.json")
                found = data.general_examples(self.settings, self.tokenizer, rows, code)
            else:
                found = data.sft_examples(self.tokenizer, code)
            stage = self.settings.stages()["general_sft" if general else "code_sft"]
            result = self.train(directory, stage, self.load(start), found)
            policy = Policy(self.load_from(directory))
            if name == "code_sft":
                code_tasks = [t for t in self.tasks if t.family == "code"]
                texts = evaluation.completions(policy, code_tasks)
                graded = evaluation.grade(code_tasks, texts)
                result["completion_correct"] = graded["correct"]
            return result | self._evaluated(directory, policy)

        self.stage(name, run)

    def _preference_rounds(self, prefix: str, preference_weight: float) -> None:
        """Runs DPO, then the RPO rounds; each starts at, and refers to, the last."""
        before = "general_sft"
        names = ["dpo", *(f"rpo_{i + 1}" for i in range(self.settings.rpo_rounds))]
        for name in names:
            kind = "dpo" if name == "dpo" else "rpo"
            run = functools.partial(self._prefer, name, kind, before, preference_weight)
            self.stage(f"{prefix}{name}", run)
            before = f"{prefix}{name}"

    def _prefer(
        self, stream: str, kind: str, before: str, weight: float, directory: Path
    ) -> dict[str, Any]:
        """Trains on pairs of the policy's own samples."""
        model = self.load(before)
        found = preferences.preference_data(
            self.settings,
            Policy(model),
            self.load("policy_reward_model"),
            data.stream(self.settings, f"pairs-{stream}"),
            kind,
        )
        result = {"pairs": len(found.pairs), "statistics": found.summary()}
        if found.pairs:
            pairs = self.examples(
                found.pairs, examples.preferences, "pairs", LENGTH, values=3
            )
            stage = self.settings.stages()[kind]
            assert isinstance(stage.preference, PreferenceConfig)
            loss = dataclasses.replace(stage.preference, preference_weight=weight)
            stage = dataclasses.replace(stage, preference=loss)
            result |= self.train(directory, stage, model, pairs)
        else:  # a very weak policy may have no right answer to choose
            model_folder.save(
                directory / MODEL, model.config, model.params,
                files=model.files, exist_ok=True,
            )  # fmt: skip
            digest = fingerprint.parameters_sha256(model.params)
            result |= {"steps": 0, "history": [], "parameters_sha256": digest}
        policy = Policy(self.load_from(directory))
        return result | self._evaluated(directory, policy)

    def _evaluated(self, directory: Path, policy: Policy) -> dict[str, Any]:
        answers = evaluation.answers(policy, self.tasks)
        return self._graded(directory, evaluation.grade(self.tasks, answers))

    def _graded(self, directory: Path, graded: dict[str, Any]) -> dict[str, Any]:
        sealed.write(directory / evaluation.ANSWERS, {"texts": graded["texts"]})
        return {
            "metrics": evaluation.family_metrics(self.tasks, graded),
            "correct": graded["correct"],
        }

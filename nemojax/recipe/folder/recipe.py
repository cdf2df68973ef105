"""The whole recipe on a data folder, stage by stage, each resumable.

tokenizer, tokenized text, pretraining on the 70/15/15 blend, Bradley-Terry reward
model, code SFT, general SFT, DPO, RPO rounds. Every policy is measured on the same
held-out rows, and every stage leaves a model folder, `STAGE/model`.
"""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nemojax.data.pretraining import blends, corpus, token_corpus
from nemojax.data.pretraining.token_corpus import TokenCorpus
from nemojax.data.records import PreferencePair
from nemojax.data.text import tokenizer as tokenizers
from nemojax.data.text.nemotron_template import NEMOTRON
from nemojax.data.text.tokenizer import Tokenizer
from nemojax.interop import loading
from nemojax.interop.loading import LoadedModel
from nemojax.io import workdir as workdirs
from nemojax.io.files import DataError
from nemojax.io.workdir import StageOutput, Workdir
from nemojax.models import forward
from nemojax.recipe.align import examples
from nemojax.recipe.align import run as align
from nemojax.recipe.align.examples import Examples
from nemojax.recipe.folder import measures
from nemojax.recipe.folder.dataset import Dataset, Split, spread
from nemojax.recipe.folder.settings import FolderSettings
from nemojax.recipe.pretrain import pretraining
from nemojax.recipe.pretrain import run as pretrain
from nemojax.training.stage import Options

MODEL, TOKENIZER, TOKENS = "model", "tokenizer.model", "tokens"
SFT_SETS = ("code_sft", "general_sft")
CURVE_POINTS = 200


@dataclasses.dataclass
class FolderRecipe:
    """The stages of the recipe in a work folder.

    Attributes:
      settings: Every number.
      data: The data folder.
      dataset: Its rows.
      workdir: Where the stages live.
      options: How they are done.
      report_stage: called with each stage when it is finished.
    """

    settings: FolderSettings
    data: Path
    dataset: Dataset
    workdir: Workdir
    options: Options
    report_stage: Callable[[StageOutput], None] = lambda output: None

    def run(self) -> dict[str, StageOutput]:
        """Runs what is not finished; returns all stages by name, in order.

        Raises:
          DataError: a stage is left without rows that fit.
        """
        self.stages: dict[str, StageOutput] = {}
        self._stage("tokenizer", self._tokenizer)
        self._stage("tokens", self._tokens)
        self._stage("pretrain", self._pretrain)
        before = {"reward_model": "pretrain", "code_sft": "pretrain"}
        last = "pretrain"
        for name in self.settings.stages():
            start = before.get(name, last)
            make = self._reward_model if name == "reward_model" else self._policy
            self._stage(name, functools.partial(make, name, start))
            last = start if name == "reward_model" else name
        return self.stages

    def _stage(self, name: str, run: Callable[[Path], dict[str, Any]]) -> None:
        with workdirs.in_stage(name):
            if not (self.workdir.path / name).exists():
                workdirs.require_space(self.workdir.path, self._stage_bytes)
            self.stages[name] = self.workdir.stage(name, run)
        self.report_stage(self.stages[name])

    @property
    def _stage_bytes(self) -> int:
        """Bytes of the disk for a stage: a model and two checkpoints of the state."""
        config = self.settings.model(self.settings.vocab_size)
        return 4 * forward.param_count(forward.shapes(config)) * (1 + 2 * 3)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The trained tokenizer."""
        return Tokenizer.load(self.stages["tokenizer"].directory / TOKENIZER)

    def load(self, stage: str) -> LoadedModel:
        """Reads the model that a stage left."""
        folder = self.stages[stage].directory / MODEL
        return loading.load(folder, self.options.layout, name=stage)

    @functools.cached_property
    def measures(self) -> measures.Measures:
        """Measures of every policy."""
        settings, dataset = self.settings, self.dataset
        texts = {
            name: measures.texts(
                self.tokenizer, documents, settings.length, settings.validation_bytes
            )
            for name, documents in dataset.validation.items()
        }
        rows = {
            name: self._encoded(name, getattr(dataset, name).held_out, "held out")
            for name in SFT_SETS
        }
        return measures.Measures(
            self.options.layout.mesh,
            settings.length,
            texts,
            {
                name: [
                    group[0] for group in spread(found.groups, settings.held_out_rows)
                ]
                for name, found in rows.items()
            },
            spread(self._held_out_pairs["preferences"].groups, settings.held_out_pairs),
        )

    @functools.cached_property
    def _held_out_pairs(self) -> dict[str, Examples]:
        found = {}
        for name in ("preferences", "reward_pairs"):
            pairs = getattr(self.dataset, name).held_out
            if pairs:
                found[name] = self._pairs(pairs, f"{name}, held out")
        return found

    def _encoded(self, name: str, rows: Sequence[Any], kind: str) -> Examples:
        return examples.of_records(
            rows,
            examples.demonstrations(self.tokenizer, NEMOTRON),
            name=f"{name.replace('_', ' ')}, {kind}",
            length=self.settings.length,
        )

    def _pairs(self, pairs: Sequence[PreferencePair], name: str) -> Examples:
        return examples.of_records(
            pairs,
            examples.preferences(self.tokenizer, NEMOTRON),
            name=name,
            length=self.settings.length,
            values=3,
        )

    def _tokenizer(self, directory: Path) -> dict[str, Any]:
        """Trains SentencePiece BPE on a sample of the pretraining blend."""
        seeds = np.random.SeedSequence([self.settings.seed, *b"tokenizer"])
        sample = corpus.sample_blend(
            self.dataset.documents, corpus.BLEND, np.random.default_rng(seeds),
            self.settings.tokenizer_bytes,
        )  # fmt: skip
        texts = (document.text for document in sample)
        try:
            found = tokenizers.train(texts, vocab_size=self.settings.vocab_size)
        except ValueError as error:
            raise DataError(f"pretrain/: {error}; add more text.") from error
        found.save(directory / TOKENIZER)
        return {"vocab_size": found.vocab_size, "fingerprint": found.fingerprint}

    def _tokens(self, directory: Path) -> dict[str, Any]:
        out = directory / TOKENS
        todo = token_corpus.jobs(self.data, out)
        share = self.settings.max_malformed_share
        index = token_corpus.tokenize(todo, self.tokenizer, out, max_bad_fraction=share)
        return {"totals": index["totals"]}

    def _pretrain(self, directory: Path) -> dict[str, Any]:
        """Trains on the blend; the validation text is measured along the way."""
        text = TokenCorpus(self.stages["tokens"].directory / TOKENS)
        settings = self.settings.pretrain(self.tokenizer.vocab_size)
        source = pretraining.open_samples(settings, text, [blends.NEMOTRON])
        params = pretraining.fresh(settings, self.options.layout)
        untrained = self.measures.policy(settings.config, params)
        trained = pretrain.train(
            settings, text, source, params, directory, self.options
        )
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)
        return {
            "untrained": untrained["metrics"],
            "validation": measured_rows(trained.history),
            **self.measures.policy(settings.config, trained.params),
            "history": curve(trained.history),
            "steps": len(trained.history),
            "counts": source.counts(settings.schedule.samples),
            "parameters": forward.param_count(trained.params),
        }

    def _reward_model(self, name: str, start: str, directory: Path) -> dict[str, Any]:
        """Trains a Bradley-Terry head and its trunk on all pairs."""
        pairs = [
            pair
            for kind in ("preferences", "reward_pairs")
            for pair in getattr(self.dataset, kind).train
        ]
        train = examples.of_records(
            spread(pairs, self.settings.max_pairs),
            examples.compared(self.tokenizer, NEMOTRON),
            name="reward pairs",
            length=self.settings.length,
            values=1,
        )
        found = align.train_model(
            name, self.settings.stages()[name], self.load(start), train, None,
            directory, self.options,
        )  # fmt: skip
        scorer = measures.reward_scorer(
            loading.load(directory / MODEL, self.options.layout),
            self.settings.length,
        )
        held = {
            kind: getattr(self.dataset, kind).held_out
            for kind in ("preferences", "reward_pairs")
        }
        accuracy = measures.reward_accuracy(scorer, held)
        return found | {
            "metrics": {"reward_accuracy": accuracy["all"]},
            "accuracy": accuracy,
            "history": curve(align.history(directory)),
        }

    def _policy(self, name: str, start: str, directory: Path) -> dict[str, Any]:
        """Trains and measures one of the policies."""
        split, train = self._examples(name)
        model = self.load(start)
        found = align.train_model(
            name, self.settings.stages()[name], model, train, None, directory,
            self.options,
        )  # fmt: skip
        params = loading.load(directory / MODEL, self.options.layout).params
        counts = {"left out by the recipe": split.left_out, **train.counts}
        return found | {
            **self.measures.policy(model.config, params),
            "counts": counts,
            "history": curve(align.history(directory)),
            "steps": found["final"]["step"],
            "parameters": forward.param_count(params),
            "parameters_sha256": found["final"]["parameters_sha256"],
        }

    def _examples(self, name: str) -> tuple[Split, Examples]:
        if name in SFT_SETS:
            split = getattr(self.dataset, name)
            train = self._encoded(name, split.train, "training")
            if name == "general_sft":
                code = self._encoded(
                    "code_sft", self.dataset.code_sft.train, "training"
                )
                share = self.settings.code_share
                train = train.with_share(code, share, self.settings.seed)
            return split, train
        split = self.dataset.preferences
        pairs = spread(split.train, self.settings.max_pairs)
        if name.startswith("rpo"):
            pairs = self._rewarded(pairs)
        return split, self._pairs(pairs, "preference pairs")

    def _rewarded(self, pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
        """Gives pairs the rewards of the reward model, where it takes their length.

        It was trained on these pairs, so it is surer of them than of new ones.
        """
        model, length = self.load("reward_model"), self.settings.length
        return [
            dataclasses.replace(
                pair, chosen_reward=float(chosen), rejected_reward=float(rejected)
            )
            for pair, (chosen, rejected) in measures.rewarded(
                measures.reward_scorer(model, length), pairs
            )
        ]


def curve(history: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Thins out a loss curve to at most about `CURVE_POINTS` points."""
    stride = max(1, len(history) // CURVE_POINTS)
    return [
        {"step": row["step"], "loss": float(f"{row['loss']:.5g}")}
        for row in history[::stride]
    ]


def measured_rows(history: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Returns the steps at which validation text was measured, with the values."""
    return [
        {"step": row["step"]}
        | {name: value for name, value in row.items() if name.startswith(_BITS)}
        for row in history
        if any(name.startswith(_BITS) for name in row)
    ]


_BITS = pretraining.BITS

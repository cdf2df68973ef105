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

from nemojax.data.batching import examples
from nemojax.data.batching.examples import Examples
from nemojax.data.pretraining import blends, corpus, token_corpus
from nemojax.data.pretraining.token_corpus import TokenCorpus
from nemojax.data.records import PreferencePair
from nemojax.data.text import tokenizer as tokenizers
from nemojax.io import workdir as workdirs
from nemojax.io.files import DataError
from nemojax.io.workdir import StageOutput
from nemojax.models import forward
from nemojax.recipe.folder import measures
from nemojax.recipe.folder.dataset import Dataset, Split, spread
from nemojax.recipe.folder.settings import FolderSettings
from nemojax.recipe.pretrain import pretraining
from nemojax.recipe.pretrain import run as pretrain
from nemojax.recipe.stages import TOKENIZER, Stages, curve

TOKENS = "tokens"
SFT_SETS = ("code_sft", "general_sft")


@dataclasses.dataclass
class FolderRecipe(Stages):
    """Runs the stages in a work folder.

    Attributes:
      settings: Every number.
      data: The data folder.
      dataset: Its rows.
      report_stage: called with each stage when it is finished.
    """

    settings: FolderSettings
    data: Path
    dataset: Dataset
    report_stage: Callable[[StageOutput], None] = lambda output: None

    def run(self) -> dict[str, StageOutput]:
        """Runs what is not finished; returns all stages by name, in order.

        Raises:
          DataError: a stage is left without rows that fit.
        """
        self.stage("tokenizer", self._tokenizer)
        self.stage("tokens", self._tokens)
        self.stage("pretrain", self._pretrain)
        before = {"reward_model": "pretrain", "code_sft": "pretrain"}
        last = "pretrain"
        for name in self.settings.stages():
            start = before.get(name, last)
            make = self._reward_model if name == "reward_model" else self._policy
            self.stage(name, functools.partial(make, name, start))
            last = start if name == "reward_model" else name
        return self.stages

    def stage(self, name: str, run: Callable[[Path], dict[str, Any]]) -> StageOutput:
        """Runs a stage that is not finished, where the disk has room for it."""
        if not (self.workdir.path / name).exists():
            with workdirs.in_stage(name):
                workdirs.require_space(self.workdir.path, self._stage_bytes)
        self.report_stage(super().stage(name, run))
        return self.stages[name]

    @property
    def _stage_bytes(self) -> int:
        """Bytes of the disk for a stage: a model and two checkpoints of the state."""
        config = self.settings.model(self.settings.vocab_size)
        return 4 * forward.param_count(forward.shapes(config)) * (1 + 2 * 3)

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
        title = f"{name.replace('_', ' ')}, {kind}"
        return self.examples(rows, examples.demonstrations, title, self.settings.length)

    def _pairs(self, pairs: Sequence[PreferencePair], name: str) -> Examples:
        return self.examples(
            pairs, examples.preferences, name, self.settings.length, values=3
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
        params = pretraining.fresh(settings.config, settings.seed, self.options.layout)
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
        length = self.settings.length
        train = self.examples(
            spread(pairs, self.settings.max_pairs), examples.compared, "reward pairs",
            length, values=1,
        )  # fmt: skip
        stage = self.settings.stages()[name]
        found = self.train(directory, stage, self.load(start), train)
        scorer = measures.reward_scorer(self.load_from(directory), length)
        held = {
            kind: getattr(self.dataset, kind).held_out
            for kind in ("preferences", "reward_pairs")
        }
        accuracy = measures.reward_accuracy(scorer, held)
        return found | {
            "metrics": {"reward_accuracy": accuracy["all"]},
            "accuracy": accuracy,
        }

    def _policy(self, name: str, start: str, directory: Path) -> dict[str, Any]:
        """Trains and measures one of the policies."""
        split, train = self._examples(name)
        model = self.load(start)
        found = self.train(directory, self.settings.stages()[name], model, train)
        params = self.load_from(directory).params
        counts = {"left out by the recipe": split.left_out, **train.counts}
        return found | {
            **self.measures.policy(model.config, params),
            "counts": counts,
            "parameters": forward.param_count(params),
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


def measured_rows(history: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Returns the steps at which validation text was measured, with the values."""
    return [
        {"step": row["step"]}
        | {name: value for name, value in row.items() if name.startswith(_BITS)}
        for row in history
        if any(name.startswith(_BITS) for name in row)
    ]


_BITS = pretraining.BITS

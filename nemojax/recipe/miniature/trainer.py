"""The training stages of the recipe: pretraining, SFT, reward model, preferences.

Every stage is: encode, pack, take one step per batch. What differs is in the batches
and in the objective.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from nemojax.data.batching import batches as data_batches
from nemojax.data.batching import packing
from nemojax.data.records import MISSING, AttributeLabels, PreferencePair
from nemojax.data.text.chat_template import ChatTemplate
from nemojax.data.text.tokenizer import Tokenizer
from nemojax.inference.scoring import scoring
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout
from nemojax.training import loop, objectives
from nemojax.training.objectives import (
    BradleyTerryBatch,
    PreferenceBatch,
    PreferenceConfig,
    RewardBatch,
)
from nemojax.training.optimizer import OptimizerConfig, make_optimizer
from nemojax.training.step import make_train_step

History = list[dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Phase:
    """Settings of one training stage.

    Attributes:
      name: shown to the user.
      optimizer: AdamW and its schedule.
      rows, length: shape of a packed batch. A length of 128 was up to 3 times slower on
        CPUs than 120: its rows fall on the same cache lines.
      epochs: passes over the data.
      checkpoint_every: steps between checkpoints; 0: none.
    """

    name: str
    optimizer: OptimizerConfig
    rows: int = 16
    length: int = 120
    epochs: int = 1
    checkpoint_every: int = 0


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Trains one model family: sizes, tokenizer, template and mesh stay the same."""

    config: ModelConfig
    tokenizer: Tokenizer
    template: ChatTemplate
    mesh: Mesh
    seed: int

    def pretrain(
        self, params: Any, rows_NS: np.ndarray, phase: Phase, directory: Path
    ) -> tuple[Any, History]:
        """Next-token training on full rows of tokens, in the order given.

        A BOS starts a segment: documents do not attend to each other, which small
        models learn from faster.
        """
        count = len(rows_NS) // phase.rows
        segments = packing.document_segments(rows_NS, bos_id=self.tokenizer.bos_id)
        parts = [slice(i * phase.rows, (i + 1) * phase.rows) for i in range(count)]
        batches = [
            data_batches.from_rows(rows_NS[part], segments[part])
            for part in parts * phase.epochs
        ]
        return self._fit("language_model", None, params, batches, phase, directory)

    def sft(
        self,
        params: Any,
        examples: Sequence[packing.TokenSequence],
        phase: Phase,
        directory: Path,
    ) -> tuple[Any, History]:
        """Supervised fine-tuning on (tokens, loss_mask) sequences."""
        batches = [
            packed.batch
            for packed in self._pack([[example] for example in examples], phase)
        ]
        return self._fit("language_model", None, params, batches, phase, directory)

    def reward(
        self,
        params: Any,
        rows: Sequence[AttributeLabels],
        phase: Phase,
        directory: Path,
    ) -> tuple[Any, History]:
        """Attribute regression; `params` must hold a reward head."""
        groups = [[self._for_reward(row.conversation)] for row in rows]
        batches = []
        for packed in self._pack(groups, phase):
            labels = np.full(
                (len(packed.last_token), len(rows[0].labels)), MISSING, np.float32
            )
            members = [rows[index].labels for index in packed.members]
            labels[: packed.num_sequences] = members
            batches.append(RewardBatch(packed.batch, packed.last_token, labels))
        return self._fit("reward", None, params, batches, phase, directory)

    def bradley_terry(
        self,
        params: Any,
        pairs: Sequence[PreferencePair],
        phase: Phase,
        directory: Path,
    ) -> tuple[Any, History]:
        """Pairwise reward model on attribute 0."""
        groups = [
            [
                self._for_reward(pair.prompt.with_response(text))
                for text in (pair.chosen, pair.rejected)
            ]
            for pair in pairs
        ]
        batches = []
        for packed in self._pack(groups, phase):
            valid = np.zeros(len(packed.last_token) // 2, np.float32)
            valid[: len(packed.members)] = 1.0
            no_margin = np.zeros_like(valid)
            batches.append(
                BradleyTerryBatch(packed.batch, packed.last_token, no_margin, valid)
            )
        return self._fit("bradley_terry", None, params, batches, phase, directory)

    def prefer(
        self,
        params: Any,
        pairs: Sequence[PreferencePair],
        preference: PreferenceConfig,
        phase: Phase,
        directory: Path,
    ) -> tuple[Any, History]:
        """DPO or RPO; the reference is `params`, and its log-probs are computed once.

        Raises:
          ValueError: RPO on a pair without rewards.
        """
        if preference.loss == "rpo":
            for index, pair in enumerate(pairs):
                if pair.chosen_reward is None or pair.rejected_reward is None:
                    raise ValueError(f"pair {index} has no rewards, which RPO needs")
        groups = [self.encode_pair(pair) for pair in pairs]
        batches = [
            self._preference_batch(params, packed, pairs)
            for packed in self._pack(groups, phase)
        ]
        return self._fit("preference", preference, params, batches, phase, directory)

    def encode_pair(self, pair: PreferencePair) -> list[packing.TokenSequence]:
        """(tokens, loss_mask) of the chosen and of the rejected response."""
        return [
            self.template.encode_response(self.tokenizer, pair.prompt, text)
            for text in (pair.chosen, pair.rejected)
        ]

    def _for_reward(self, conversation) -> packing.TokenSequence:
        tokens = self.template.encode_for_reward(self.tokenizer, conversation)
        return tokens, [0] * len(tokens)

    def _preference_batch(
        self, params: Any, packed: packing.PackedBatch, pairs: Sequence[PreferencePair]
    ) -> PreferenceBatch:
        size = len(packed.last_token)
        rewards = np.zeros(size, np.float32)
        valid = np.zeros(size // 2, np.float32)
        valid[: len(packed.members)] = 1.0
        for slot, index in enumerate(packed.members):
            rewards[2 * slot] = pairs[index].chosen_reward or 0.0
            rewards[2 * slot + 1] = pairs[index].rejected_reward or 0.0
        # On the very batch that the policy will see: at step 0 every log ratio is 0.
        reference = scoring.packed_log_probs(self.config, params, packed, self.mesh)
        return PreferenceBatch(
            packed.batch, packed.sequence_ids, np.asarray(reference), rewards,
            np.zeros_like(valid), valid,
        )  # fmt: skip

    def _pack(
        self, groups: Sequence[Sequence[packing.TokenSequence]], phase: Phase
    ) -> list[packing.PackedBatch]:
        """All epochs as one stream of batches; members are indices into `groups`.

        Raises:
          ValueError: a group that fits no batch.
        """
        order = [
            int(index)
            for epoch in range(phase.epochs)
            for index in data_batches.epoch_order(self.seed, epoch, len(groups))
        ]
        packed = packing.pack(
            (groups[index] for index in order),
            rows=phase.rows,
            length=phase.length,
            max_sequences=scoring.max_sequences(phase.rows, phase.length),
        )
        return [
            dataclasses.replace(
                batch, members=tuple(order[member] for member in batch.members)
            )
            for batch in packed
        ]

    def _fit(self, kind, preference, params, batches, phase: Phase, directory: Path):
        run = loop.TrainingRun(
            phase.name,
            phase.optimizer,
            directory,
            Layout(self.mesh),
            phase.checkpoint_every,
        )
        # The step does not read the schedule, so stages that differ in it share one.
        optimizer = dataclasses.replace(
            phase.optimizer, peak_lr=1.0, schedule="constant", warmup_steps=0
        )
        step = _compiled_step(kind, self.config, preference, optimizer, self.mesh)
        return loop.train(run, params, step, batches)


def fitting(
    examples: Iterable[packing.TokenSequence], length: int
) -> tuple[list[packing.TokenSequence], int]:
    """The examples of at most `length` tokens, and the number of longer ones."""
    kept, longer = [], 0
    for example in examples:
        if len(example[0]) <= length:
            kept.append(example)
        else:
            longer += 1
    return kept, longer


@functools.lru_cache(maxsize=16)
def _compiled_step(
    kind: str,
    config: ModelConfig,
    preference: PreferenceConfig | None,
    optimizer: OptimizerConfig,
    mesh: Mesh,
):
    if kind == "preference":
        assert preference is not None
        objective = objectives.preference_objective(config, preference, Layout(mesh))
    else:
        make = {
            "language_model": objectives.language_model_objective,
            "reward": objectives.reward_objective,
            "bradley_terry": objectives.bradley_terry_objective,
        }[kind]
        objective = make(config, Layout(mesh))
    return make_train_step(objective, make_optimizer(optimizer))

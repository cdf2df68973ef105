"""Batches of a stage by step, as its objective takes them; and the objective."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from nemojax.data.batching.example_batches import ExampleBatches
from nemojax.data.batching.examples import Examples
from nemojax.data.batching.packing import PackedBatch
from nemojax.data.records import MISSING
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import LayoutSpec
from nemojax.recipe.align import settings as kinds
from nemojax.recipe.align.settings import StageSettings
from nemojax.training import objectives
from nemojax.training.objectives import (
    BradleyTerryBatch,
    PreferenceBatch,
    RewardBatch,
)
from nemojax.training.programs import ByLayout, as_passes
from nemojax.training.reference import ReferenceCache


class StageBatches(Sequence[Any]):
    """Batches of a stage: `batches[k]` is the argument of the objective at step k.

    Attributes:
      packed: the batches as sequences in rows.
    """

    def __init__(
        self,
        settings: StageSettings,
        packed: ExampleBatches,
        values: np.ndarray,
        reference: ReferenceCache | None = None,
    ):
        """Keeps its arguments; makes each batch when it is requested.

        Args:
          settings: settings of the stage.
          packed: the examples by step.
          values: values of the examples, see `Examples`.
          reference: log-probs of the reference of a preference stage; None: the step
            itself fills them in.
        """
        self.packed = packed
        self._objective, self._values = settings.objective, values
        self._width = settings.attributes
        self._reference = reference

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, k: int) -> Any:  # pyright: ignore
        return as_passes([self.of_part(part) for part in self.packed.parts(k)])

    def of_part(self, packed: PackedBatch) -> Any:
        """Returns the batch of one pass."""
        if self._objective == kinds.SFT:
            return packed.batch
        if self._objective == kinds.PREFERENCE:
            return self.pairs(packed, self._reference)
        values = self._values[list(packed.members)]
        if self._objective == kinds.BRADLEY_TERRY:
            margin, valid = _of_pairs(packed, values[:, 0])
            return BradleyTerryBatch(packed.batch, packed.last_token, margin, valid)
        labels = np.full((len(packed.last_token), self._width), MISSING, np.float32)
        labels[: packed.num_sequences] = values
        return RewardBatch(packed.batch, packed.last_token, labels)

    def pairs(
        self, packed: PackedBatch, reference: ReferenceCache | None
    ) -> PreferenceBatch:
        """Returns the batch of pairs; without a cache its reference log-probs are 0."""
        count = packed.num_sequences
        rewards, log_probs = np.zeros((2, len(packed.last_token)), np.float32)
        found = np.nan_to_num(self._values[list(packed.members)])
        rewards[:count] = found[:, :2].reshape(-1)
        if reference is not None:
            log_probs[:count] = reference.of(packed.members)
        margin, valid = _of_pairs(packed, found[:, 2])
        return PreferenceBatch(
            packed.batch, packed.sequence_ids, log_probs, rewards, margin, valid
        )


def _of_pairs(packed: PackedBatch, margins: np.ndarray) -> np.ndarray:
    """Returns float32 [2, N]: the margins of a batch's pairs, and where pairs are."""
    found = np.zeros((2, len(packed.last_token) // 2), np.float32)
    found[:, : len(packed.members)] = margins, np.ones_like(margins)
    return found


def pack(
    settings: StageSettings,
    spec: LayoutSpec,
    examples: Examples,
    *,
    held_out: bool = False,
) -> ExampleBatches:
    """Packs the examples of a stage by step: of all epochs, or once in their order.

    Args:
      settings: settings of the stage.
      spec: the layout, which has to divide the rows.
      examples: examples of the stage.
      held_out: whether they are only measured, once and in their order.
    """
    reads_log_probs = settings.objective in (kinds.SFT, kinds.PREFERENCE)

    def head_groups(rows: int) -> int:
        return spec.of_pass(rows).head_groups(rows)

    make = functools.partial(
        ExampleBatches,
        examples.groups,
        batch=settings.batch,
        epochs=1 if held_out else settings.epochs,
        seed=None if held_out else settings.seed,
        length=-(-settings.length // spec.tensor) * spec.tensor,
        row_multiple=spec.data * spec.pipe * max(1, spec.rows),
        pack=settings.pack,
        head_groups=head_groups if reads_log_probs else None,
    )
    if spec.passes:
        return make(part_rows=-(-make().rows // spec.passes))
    return make(part_rows=0 if spec.pipelined else spec.data * spec.rows)


def objective(config: ModelConfig, settings: StageSettings) -> ByLayout:
    """Returns the objective that a stage minimises."""
    if settings.preference is not None:
        options = (("loss", settings.preference),)
        return ByLayout(objectives.preference_objective, config, options)
    if settings.objective == kinds.BRADLEY_TERRY:
        options = (("pairwise", settings.pairwise),)
        return ByLayout(objectives.bradley_terry_objective, config, options)
    if settings.objective == kinds.REGRESSION:
        return ByLayout(objectives.reward_objective, config)
    return ByLayout(objectives.language_model_objective, config)

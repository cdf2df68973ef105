"""Batches of a fixed number of examples, whatever rows they lie in.

Step k of a run takes the examples k * batch to (k + 1) * batch - 1 of a stream of
epochs, each in an order of its own. They are packed into rows, or have a row each, in
one or several passes; all batches have one shape, the smaller last one too. Nothing of
this decides what is learned from.
"""

import functools
from collections.abc import Sequence

import numpy as np

from nemojax.data.batching import batches, packing
from nemojax.data.batching.packing import PackedBatch, TokenSequence
from nemojax.errors import UserError


class ExampleBatches:
    """Examples by step: `parts(k)` packs those of step k, `members(k)` names them.

    Attributes:
      passes: number of parts of a step.
      rows, length: shape of a part.
      sequences: most sequences of a part.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[TokenSequence]],
        *,
        batch: int,
        length: int,
        epochs: int = 1,
        seed: int | None = 0,
        row_multiple: int = 1,
        pack: bool = True,
        passes: int = 1,
    ):
        """Decides the order and the shape.

        Args:
          groups: the sequences of each example: one, or the two of a pair, which share
            a part.
          batch: examples of a step; the last may have fewer.
          length: tokens of a row.
          epochs: passes over the examples.
          seed: of the orders; None: as they come.
          row_multiple: divides the number of rows of a part.
          pack: whether sequences share rows.
          passes: parts of a step, each with `batch / passes` examples.

        Raises:
          UserError: no example, a malformed or too long sequence, a number below 1, or
            passes that do not divide the batch.
        """
        numbers = {"batch": batch, "epochs": epochs, "length": length, "passes": passes}
        for name, value in numbers.items():
            if value < 1:
                raise UserError(f"{name}={value} must be positive")
        if batch % passes:
            raise UserError(f"passes={passes} does not divide batch={batch}")
        if not groups:
            raise UserError("there is no example")
        for index, group in enumerate(groups):
            packing.check_group(index, group)
        self._groups, self._batch, self._pack = groups, batch, pack
        self._sizes = [[len(tokens) for tokens, _ in group] for group in groups]
        longest = max(map(max, self._sizes))
        if longest > length:
            raise UserError(f"a sequence has {longest} tokens, a row {length}")
        self.passes, self.length, self._epochs = passes, length, epochs
        self._order = np.concatenate(
            [
                np.arange(len(groups))
                if seed is None
                else batches.epoch_order(seed, epoch, len(groups))
                for epoch in range(epochs)
            ]
        )
        self.sequences = batch // passes * max(map(len, groups))
        needed = max(
            max(self._rows(members), default=0) + 1
            for k in range(len(self))
            for members in self._split(k)
        )
        self.rows = -(-needed // row_multiple) * row_multiple

    def __len__(self) -> int:
        return -(-len(self._order) // self._batch)

    def parts(self, k: int) -> list[PackedBatch]:
        """Packs the examples of step k, each pass by itself.

        Returns:
          `passes` batches [rows, length] of `batch / passes` consecutive examples; of
          the last step the last ones may have fewer, or none.

        Raises:
          IndexError: there is no step k.
        """
        if not 0 <= k < len(self):
            raise IndexError(k)
        return [
            packing.assemble(
                [sequence for index in members for sequence in self._groups[index]],
                self._rows(members),
                members,
                rows=self.rows,
                length=self.length,
                max_sequences=self.sequences,
            )
            for members in self._split(k)
        ]

    def members(self, k: int) -> tuple[int, ...]:
        """Returns the indices of the examples of step k."""
        found = self._order[k * self._batch : (k + 1) * self._batch]
        return tuple(found.tolist())

    def _split(self, k: int) -> list[tuple[int, ...]]:
        """Returns the members of each pass of step k."""
        members, size = self.members(k), self._batch // self.passes
        return [members[start : start + size] for start in range(0, self._batch, size)]

    def tokens(self, k: int) -> int:
        """Returns the number of tokens of step k, without padding."""
        return sum(sum(self._sizes[index]) for index in self.members(k))

    @property
    def epoch_steps(self) -> int:
        """Number of steps until every example was met once."""
        return -(-len(self._groups) // self._batch)

    @property
    def slots(self) -> int:
        """Number of tokens of a step, padding included."""
        return self.passes * self.rows * self.length

    @functools.cached_property
    def padding(self) -> float:
        """Share of all slots that hold nothing."""
        tokens = self._epochs * sum(map(sum, self._sizes))
        return 1 - tokens / (len(self) * self.slots)

    def _rows(self, members: Sequence[int]) -> list[int]:
        """Returns the row of each sequence of a pass."""
        sizes = [size for index in members for size in self._sizes[index]]
        if not self._pack:
            return list(range(len(sizes)))
        return packing.first_fit_decreasing(sizes, self.length)

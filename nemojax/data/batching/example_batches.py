"""Batches of a number of examples each: what a step trains on does not depend on how.

Step k of a run takes the examples k * batch to (k + 1) * batch - 1 of a stream of
epochs, each in an order of its own. They are packed into rows, or have a row each; all
batches have one shape. Neither decides what is learned from.
"""

from collections.abc import Sequence

import numpy as np

from nemojax.data.batching import batches, packing
from nemojax.data.batching.packing import PackedBatch, TokenSequence
from nemojax.errors import UserError


class ExampleBatches(Sequence[PackedBatch]):
    """`batches[k]` is the batch of step k; `members` are indices of examples.

    Attributes:
      rows, length: shape of a batch.
      sequences: most sequences of a batch.
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
    ):
        """Decides the order and the shape.

        Args:
          groups: the sequences of each example: one, or the two of a pair.
          batch: examples of a step; the last may have fewer.
          length: tokens of a row.
          epochs: passes over the examples.
          seed: of the orders; None: as they come.
          row_multiple: of which the number of rows is a multiple.
          pack: whether sequences share rows.

        Raises:
          UserError: no example, a malformed or too long sequence, or a number below 1.
        """
        for name, value in (("batch", batch), ("epochs", epochs), ("length", length)):
            if value < 1:
                raise UserError(f"{name}={value} must be positive")
        if not groups:
            raise UserError("there is no example")
        for index, group in enumerate(groups):
            packing.check_group(index, group)
        self._groups, self._batch, self._pack = groups, batch, pack
        self._sizes = [[len(tokens) for tokens, _ in group] for group in groups]
        longest = max(map(max, self._sizes))
        if longest > length:
            raise UserError(f"a sequence has {longest} tokens, a row {length}")
        self.length, self._epochs = length, epochs
        self._order = np.concatenate(
            [
                np.arange(len(groups))
                if seed is None
                else batches.epoch_order(seed, epoch, len(groups))
                for epoch in range(epochs)
            ]
        )
        self.sequences = batch * max(map(len, groups))
        needed = max(max(self._rows(k), default=0) + 1 for k in range(len(self)))
        self.rows = -(-needed // row_multiple) * row_multiple

    def __len__(self) -> int:
        return -(-len(self._order) // self._batch)

    def __getitem__(self, k: int) -> PackedBatch:  # pyright: ignore
        if not 0 <= k < len(self):
            raise IndexError(k)
        members = self.members(k)
        return packing.assemble(
            [sequence for index in members for sequence in self._groups[index]],
            self._rows(k),
            members,
            rows=self.rows,
            length=self.length,
            max_sequences=self.sequences,
        )

    def members(self, k: int) -> tuple[int, ...]:
        """Indices of the examples of step k."""
        found = self._order[k * self._batch : (k + 1) * self._batch]
        return tuple(found.tolist())

    def tokens(self, k: int) -> int:
        """Of the sequences of step k."""
        return sum(sum(self._sizes[index]) for index in self.members(k))

    @property
    def epoch_steps(self) -> int:
        """Steps until every example was met once."""
        return -(-len(self._groups) // self._batch)

    def _rows(self, k: int) -> list[int]:
        """The row of each sequence of step k."""
        sizes = [size for index in self.members(k) for size in self._sizes[index]]
        if not self._pack:
            return list(range(len(sizes)))
        return packing.first_fit_decreasing(sizes, self.length)

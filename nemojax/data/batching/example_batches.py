"""Batches of a fixed number of examples, whatever rows they lie in.

Step k of a run takes the examples k * batch to (k + 1) * batch - 1 of a stream of
epochs, each in an order of its own. They are packed into rows, or have a row each, in
one or several passes; all batches have one shape, the smaller last one too. Nothing of
this decides what is learned from.
"""

from collections.abc import Callable, Sequence

import numpy as np

from nemojax.data.batching import batches, packing
from nemojax.data.batching.packing import PackedBatch, TokenSequence
from nemojax.errors import UserError

# Room for targets is a multiple of this, for matrix units and so that shapes recur.
_TILE = 32


class ExampleBatches:
    """Examples by step: `parts(k)` packs those of step k, `members(k)` names them.

    Attributes:
      passes: number of parts of a step.
      rows, length: shape of a part.
      sequences: most sequences of a part.
      target_shape: shape of the target indices of a part, which have room for the
        targets of any; None: all its tokens are looked at.
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
        part_rows: int = 0,
        head_groups: Callable[[int], int] | None = None,
    ):
        """Decides the order and the shape.

        Args:
          groups: the sequences of each example: one, or the two of a pair, which share
            a part.
          batch: examples of a step; the last may have fewer.
          length: tokens of a row.
          epochs: passes over the examples.
          seed: seed of the orders; None: examples as they come.
          row_multiple: divides the number of rows of a part.
          pack: whether sequences share rows.
          part_rows: rows of a part, or as many more as an example needs; 0: a step is
            one part.
          head_groups: (rows of a part) -> the groups of rows that meet the LM head
            together, see `Layout.head_groups`; None: it looks at all tokens.

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
        self._whole = not part_rows
        self._sizes = [[len(tokens) for tokens, _ in group] for group in groups]
        longest = max(map(max, self._sizes))
        if longest > length:
            raise UserError(f"a sequence has {longest} tokens, a row {length}")
        self.length, self._epochs = length, epochs
        totals = np.array([sum(sizes) for sizes in self._sizes])
        self._order = np.concatenate(
            [
                np.arange(len(groups))
                if seed is None
                else balanced(
                    batches.epoch_order(seed, epoch, len(groups)), totals, batch
                )
                for epoch in range(epochs)
            ]
        )
        needed = part_rows
        if part_rows:
            needed = max(part_rows, *(self._fewest(sizes) for sizes in self._sizes))
        else:
            for k in range(len(self)):
                sizes = [self._sizes[index] for index in self.members(k)]
                needed = max(
                    needed, self._fewest([n for group in sizes for n in group])
                )
        self.rows = -(-needed // row_multiple) * row_multiple
        self.passes = self.sequences = room = 0
        row_groups = head_groups(self.rows) if head_groups else 1
        for k in range(len(self)):
            found = self._split(k)
            self.passes = max(self.passes, len(found))
            for part in found:
                self.sequences = max(self.sequences, sum(map(len, part[1])))
                room = max(room, self._targets(row_groups, *part))
        room = -(-max(room, 1) // _TILE) * _TILE
        fewer = head_groups is not None and room * row_groups < self.rows * length
        self.target_shape = (row_groups, room) if fewer else None

    def __len__(self) -> int:
        return -(-len(self._order) // self._batch)

    def parts(self, k: int) -> list[PackedBatch]:
        """Packs the examples of step k, each pass by itself.

        Returns:
          `passes` batches [rows, length]; the last ones may have no example.

        Raises:
          IndexError: there is no step k.
        """
        if not 0 <= k < len(self):
            raise IndexError(k)
        found = self._split(k)
        found += [((), [])] * (self.passes - len(found))
        return [
            packing.assemble(
                [sequence for index in members for sequence in self._groups[index]],
                [row for group in rows for row in group],
                members,
                rows=self.rows,
                length=self.length,
                max_sequences=self.sequences,
                target_shape=self.target_shape,
            )
            for members, rows in found
        ]

    def members(self, k: int) -> tuple[int, ...]:
        """Returns the indices of the examples of step k."""
        found = self._order[k * self._batch : (k + 1) * self._batch]
        return tuple(found.tolist())

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

    def _fewest(self, sizes: Sequence[int]) -> int:
        """Returns the rows that sequences need together."""
        if not self._pack:
            return len(sizes)
        return max(packing.first_fit_decreasing(sizes, self.length)) + 1

    def _targets(
        self, row_groups: int, members: tuple[int, ...], rows: list[list[int]]
    ) -> int:
        """Returns the most targets of a group of rows of a part that `_split` gives."""
        found, each = [0] * row_groups, self.rows // row_groups
        for index, places in zip(members, rows, strict=True):
            for row, (_, mask) in zip(places, self._groups[index], strict=True):
                found[row // each] += int(np.count_nonzero(mask))
        return max(found)

    def _split(self, k: int) -> list[tuple[tuple[int, ...], list[list[int]]]]:
        """Returns the members of each part of step k, and the rows of their sequences.

        Members keep their order within a part.
        """
        members = self.members(k)
        length = self.length if self._pack else 1
        sizes = [
            self._sizes[index] if self._pack else [1] * len(self._sizes[index])
            for index in members
        ]
        if self._whole:
            flat = iter(
                packing.first_fit_decreasing([n for one in sizes for n in one], length)
            )
            return [(members, [[next(flat) for _ in one] for one in sizes])]
        found: dict[int, tuple[list[int], list[list[int]]]] = {}
        places = packing.fit_groups(sizes, self.rows, length)
        for index, (part, rows) in zip(members, places, strict=True):
            those, their_rows = found.setdefault(part, ([], []))
            those.append(index)
            their_rows.append(rows)
        return [(tuple(found[part][0]), found[part][1]) for part in sorted(found)]


def balanced(order: np.ndarray, sizes: np.ndarray, batch: int) -> np.ndarray:
    """Orders examples so that batches have nearly equal numbers of tokens.

    A batch takes one example at random of each of as many classes of size as it has
    places. All batches have one shape, so what the largest needs is padded in others.

    Args:
      order: a random permutation of the examples.
      sizes: tokens of each example.
      batch: examples of a batch.

    Returns:
      A permutation; examples that fill no batch are the last, as in `order`.
    """
    count = len(order) // batch
    whole, rest = order[: count * batch], order[count * batch :]
    by_size = np.argsort(sizes[whole], kind="stable").reshape(batch, count)
    # Within a class of size the order is the random one.
    return np.concatenate([whole[np.sort(by_size, axis=1)].T.reshape(-1), rest])

"""Sequences of any length in padded batches of few shapes, each compiled once.

A batch holds about the same number of tokens whatever its length. The longest sequences
come first, and the free rows of a batch are filled with the next shorter ones, so that
only the last batch of all has rows without text. What is left for it takes the shape of
the batch before: one more would be compiled for a few rows.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from nemojax.errors import UserError

_SHORTEST = 16

# Tokens and loss mask of one sequence, of equal length; lists or arrays.
TokenSequence = tuple[Any, Any]


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Shapes of padded batches.

    The lengths are powers of two and those halfway between: a row is at most a third
    padding, a fifth on average, and twenty-one lengths reach from 16 to 16,384.

    Attributes:
      max_length: tokens of the longest sequence.
      batch_tokens: slots of a batch, more or less: one row may be longer.
      multiple: number of which all lengths are a multiple.
      row_multiple: number of which all numbers of rows are a multiple.

    Raises:
      UserError: a number below 1.
    """

    max_length: int
    batch_tokens: int
    multiple: int = 8
    row_multiple: int = 1

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise UserError(
                    f"{field.name}={getattr(self, field.name)} must be positive"
                )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of rows, rising; the last is the first that holds `max_length`."""
        found = []
        length = _SHORTEST
        while not found or found[-1] < self.max_length:
            for candidate in (length, length * 3 // 2):
                rounded = -(-min(candidate, self.max_length) // self.multiple)
                found.append(rounded * self.multiple)
            length *= 2
        first = next(i for i, size in enumerate(found) if size >= self.max_length)
        return tuple(dict.fromkeys(found[: first + 1]))

    def rows(self, length: int) -> int:
        """Returns the number of rows of a batch of that length."""
        most = max(1, self.batch_tokens // length)
        return max(1, most // self.row_multiple) * self.row_multiple


class PaddedBatch(NamedTuple):
    """A padded batch with one sequence in each of B rows of S slots.

    Attributes:
      tokens: int32 [B, S], 0 behind the end.
      loss_mask: bool [B, S].
      lengths: int32 [B], 1 in rows without a sequence.
      members: indices of the sequences, at most B.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    lengths: np.ndarray
    members: tuple[int, ...]


def batches(
    sequences: Sequence[TokenSequence], buckets: Buckets
) -> Iterator[PaddedBatch]:
    """Yields batches that hold each sequence once; their lengths alone decide how.

    Raises:
      UserError: an empty sequence, or one longer than `max_length`; names its index.
    """
    sizes = [len(tokens) for tokens, _ in sequences]
    for index, size in enumerate(sizes):
        if not 0 < size <= buckets.max_length:
            raise UserError(
                f"sequence {index} has {size} tokens; from 1 to {buckets.max_length} "
                "are allowed"
            )
    order = sorted(range(len(sizes)), key=lambda index: -sizes[index])
    start = length = 0
    while start < len(order):
        longest = sizes[order[start]]
        if not length or len(order) - start > buckets.rows(length):
            length = next(size for size in buckets.lengths if size >= longest)
        members = order[start : start + buckets.rows(length)]
        yield _padded(sequences, members, buckets.rows(length), length)
        start += len(members)


def _padded(
    sequences: Sequence[TokenSequence], members: list[int], rows: int, length: int
) -> PaddedBatch:
    tokens = np.zeros((rows, length), np.int32)
    loss_mask = np.zeros((rows, length), bool)
    lengths = np.ones(rows, np.int32)
    for row, index in enumerate(members):
        ids, mask = sequences[index]
        tokens[row, : len(ids)] = ids
        loss_mask[row, : len(ids)] = mask
        lengths[row] = len(ids)
    return PaddedBatch(tokens, loss_mask, lengths, tuple(members))

"""Packs sequences of any length into rows of one length, for fixed-shape batches."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from nemojax.data.batching.batches import Batch, target_indices

# Tokens and loss mask of one sequence, of equal length; lists or arrays.
TokenSequence = tuple[Any, Any]


@dataclasses.dataclass(frozen=True)
class PackedBatch:
    """Sequences packed into B rows of S tokens; N is the most sequences it can hold.

    Attributes:
      tokens, loss_mask, segment_ids, positions: [B, S], as in `Batch`.
      sequence_ids: int32[B, S]; index of a token's sequence in the batch; N is padding.
        Sequences are numbered in the order of the groups, so that with pairs the even
        ones are the chosen responses.
      last_token: int32[N]; where each sequence ends, as b * S + t; 0 for the absent
        ones, whose index is num_sequences or more.
      num_sequences: number of sequences present.
      members: indices of the groups present, in order.
      target_indices: as in `Batch`.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    sequence_ids: np.ndarray
    last_token: np.ndarray
    num_sequences: int
    members: tuple[int, ...]
    target_indices: np.ndarray | None = None

    @property
    def batch(self) -> Batch:
        """The part that a forward pass reads."""
        return Batch(
            self.tokens,
            self.loss_mask,
            self.segment_ids,
            self.positions,
            self.target_indices,
        )


def assemble(
    sequences: Sequence[TokenSequence],
    row_of: Sequence[int],
    members: tuple[int, ...],
    *,
    rows: int,
    length: int,
    max_sequences: int,
    target_shape: tuple[int, int] | None = None,
) -> PackedBatch:
    """Makes a batch of sequences, each behind those before it in its row.

    Args:
      sequences: sequences in the order of the groups.
      row_of: the row of each, which has to have room for it.
      members: indices of the groups.
      rows: B.
      length: S.
      max_sequences: N.
      target_shape: shape of the target indices; None: all tokens are looked at.

    Raises:
      UserError: more targets than these have room for.
    """
    tokens = np.zeros((rows, length), np.int32)
    loss_mask = np.zeros((rows, length), np.float32)
    segment_ids = np.zeros((rows, length), np.int32)
    positions = np.zeros((rows, length), np.int32)
    sequence_ids = np.full((rows, length), max_sequences, np.int32)
    last_token = np.zeros(max_sequences, np.int32)
    segments, ends = [0] * rows, [0] * rows
    for sequence_id, (row, (ids, mask)) in enumerate(
        zip(row_of, sequences, strict=True)
    ):
        start, stop = ends[row], ends[row] + len(ids)
        ends[row] = stop
        segments[row] += 1
        tokens[row, start:stop] = ids
        loss_mask[row, start:stop] = mask
        segment_ids[row, start:stop] = segments[row]
        positions[row, start:stop] = np.arange(len(ids))
        sequence_ids[row, start:stop] = sequence_id
        last_token[sequence_id] = row * length + stop - 1
    return PackedBatch(
        tokens=tokens,
        loss_mask=loss_mask,
        segment_ids=segment_ids,
        positions=positions,
        sequence_ids=sequence_ids,
        last_token=last_token,
        num_sequences=len(sequences),
        members=members,
        target_indices=target_shape and target_indices(loss_mask, *target_shape),
    )


def first_fit_decreasing(sizes: Sequence[int], length: int) -> list[int]:
    """Chooses a row for each sequence, the longest placed first.

    Raises:
      ValueError: a sequence is longer than a row.
    """
    if max(sizes, default=0) > length:
        raise ValueError(f"a sequence has {max(sizes)} tokens, a row {length}")
    room = np.full(len(sizes), length)
    row_of = [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        row = int(np.argmax(room >= sizes[index]))
        row_of[index] = row
        room[row] -= sizes[index]
    return row_of


def fit_groups(
    sizes: Sequence[Sequence[int]], rows: int, length: int
) -> list[tuple[int, list[int]]]:
    """Places groups of sequences in parts of some rows, the longest group first.

    Args:
      sizes: lengths of the sequences of each group; a group has to fit a part.
      rows: rows of a part.
      length: tokens of a row.

    Returns:
      The part of each group, and the row in it of each sequence.
    """
    if all(len(group) == 1 for group in sizes):
        found = first_fit_decreasing([size for (size,) in sizes], length)
        return [(row // rows, [row % rows]) for row in found]
    room: list[list[int]] = []
    places: list[tuple[int, list[int]]] = [(0, [])] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: -sum(sizes[i])):
        part, placed = 0, None
        while placed is None:
            if part == len(room):
                room.append([length] * rows)
            placed = _fit(sizes[index], room[part])
            part += placed is None
        for row, size in zip(placed, sizes[index], strict=True):
            room[part][row] -= size
        places[index] = part, placed
    return places


def _fit(sizes: Sequence[int], room: Sequence[int]) -> list[int] | None:
    """Returns the first row with room for each sequence; None where not all fit."""
    left, rows = list(room), []
    for size in sizes:
        row = next((row for row, free in enumerate(left) if free >= size), None)
        if row is None:
            return None
        left[row] -= size
        rows.append(row)
    return rows


def check_group(index: int, group: Sequence[TokenSequence]) -> None:
    """Raises ValueError if a sequence of the group is malformed."""
    if not group:
        raise ValueError(f"group {index} has no sequences")
    for tokens, mask in group:
        if not len(tokens) or len(tokens) != len(mask):
            raise ValueError(
                f"group {index}: a sequence of {len(tokens)} tokens with a loss mask "
                f"of {len(mask)}"
            )
        if mask[0]:
            raise ValueError(
                f"group {index}: the first token of a sequence cannot be a target"
            )

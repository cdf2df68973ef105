"""Batches of token rows, and the order in which an epoch visits its examples."""

from typing import NamedTuple

import numpy as np

from nemojax.errors import UserError


class Batch(NamedTuple):
    """The input of a forward pass, a pytree of arrays [B, S] but for the last.

    Attributes:
      tokens: int32 token ids; 0 where there is padding.
      loss_mask: float32; 1 where the token is a target, predicted from those before.
        A sequence's first token never is.
      segment_ids: int32; which sequence of its row a token belongs to, from 1; 0 is
        padding. Tokens attend within their segment only. None: each row is one, which
        attention needs no mask for.
      positions: int32; position in the segment, from 0.
      target_indices: int32 [G, C]; the tokens whose log-probs are computed, see
        `target_indices`; None: all.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    segment_ids: np.ndarray | None
    positions: np.ndarray
    target_indices: np.ndarray | None = None


def target_indices(loss_mask_BS: np.ndarray, groups: int, room: int) -> np.ndarray:
    """Points at all targets of each of some groups of consecutive rows.

    Args:
      loss_mask_BS: weights; tokens of weight 0 are no targets.
      groups: G, which divides the rows.
      room: C, at least the targets of any group and at most its tokens; other tokens
        fill it up, so that all indices differ.

    Returns:
      int32 [G, C], flat indices into the rows of the group.

    Raises:
      UserError: a group has more targets.
    """
    others = np.reshape(loss_mask_BS, (groups, -1)) == 0
    most = int((~others).sum(1).max())
    if most > room:
        raise UserError(f"{most} targets in a group of rows that has room for {room}")
    return np.argsort(others, axis=1, kind="stable")[:, :room].astype(np.int32)


def from_rows(rows_BS: np.ndarray, segment_ids_BS: np.ndarray | None = None) -> Batch:
    """Returns the pretraining batch of full rows of tokens.

    Args:
      rows_BS: int32 token ids without padding.
      segment_ids_BS: segments (from 1) that do not attend to each other, 0 where there
        is no text; by default a row is one segment, whatever documents it holds.
    """
    rows_BS = np.asarray(rows_BS, np.int32)
    column_S = np.arange(rows_BS.shape[1], dtype=np.int32)
    if segment_ids_BS is None:
        mask, positions = np.ones(rows_BS.shape, np.float32), np.zeros_like(rows_BS)
        mask[:, 0] = 0
        return Batch(rows_BS, mask, None, positions + column_S)
    segment_ids_BS = np.asarray(segment_ids_BS, np.int32)
    begins_BS = np.ones(rows_BS.shape, bool)
    begins_BS[:, 1:] = segment_ids_BS[:, 1:] != segment_ids_BS[:, :-1]
    start_BS = np.maximum.accumulate(np.where(begins_BS, column_S, 0), axis=1)
    return Batch(
        tokens=rows_BS,
        loss_mask=(~begins_BS & (segment_ids_BS > 0)).astype(np.float32),
        segment_ids=segment_ids_BS,
        positions=column_S - start_BS,
    )


def from_documents(
    rows_BS: np.ndarray, eos_id: int, there_BS: np.ndarray | None = None
) -> Batch:
    """Makes a batch whose documents, which end with EOS, do not attend to each other.

    Args:
      rows_BS: int32 token ids.
      eos_id: ends a document.
      there_BS: bool, False where a token is missing; by default all are there.
    """
    segments_BS = np.ones_like(rows_BS)
    segments_BS[:, 1:] += np.cumsum(rows_BS[:, :-1] == eos_id, axis=1)
    if there_BS is not None:
        segments_BS = np.where(there_BS, segments_BS, 0)
    return from_rows(rows_BS, segments_BS)


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """Returns int64[n]: the permutation of n examples that an epoch visits.

    A function of its arguments alone, the same on every machine and numpy: NumPy
    promises the stream of the Philox bit generator, not that of its shuffles.
    """
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch]))
    return np.argsort(bits.random_raw(n), kind="stable")

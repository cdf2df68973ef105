"""Scoring in packed batches of one shape: rewards and sequence log-probs."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from nemojax.data import packing
from nemojax.losses import sequences
from nemojax.models import forward
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout


def score_rewards(
    config: ModelConfig,
    params: Any,
    token_lists: Sequence[Sequence[int]],
    *,
    mesh: Mesh,
    rows: int,
    length: int,
) -> np.ndarray:
    """Attribute values [N, K] read at each sequence's last token.

    Args:
      config: sizes.
      params: with a reward head.
      token_lists: sequences that end with the token where rewards are read.
      mesh: where it runs.
      rows, length: shape of a packed batch.

    Returns:
      float32 [N, K]; NaN for a sequence longer than `length`, so that it cannot be
      taken for a score.
    """
    width = params["reward_head"]["bias"].shape[0]
    values = np.full((len(token_lists), width), np.nan, np.float32)
    groups = [[(tokens, [0] * len(tokens))] for tokens in token_lists]
    for packed in _packed(groups, rows, length):
        found = np.asarray(_rewards(config, params, packed, mesh))
        values[list(packed.members)] = found[: packed.num_sequences]
    return values


def score_log_probs(
    config: ModelConfig,
    params: Any,
    token_sequences: Sequence[packing.TokenSequence],
    *,
    mesh: Mesh,
    rows: int,
    length: int,
) -> np.ndarray:
    """Sums [N] of the masked token log-probs of each (tokens, loss_mask).

    NaN for a sequence longer than `length`.
    """
    values = np.full(len(token_sequences), np.nan, np.float32)
    for packed in _packed([[pair] for pair in token_sequences], rows, length):
        found = np.asarray(packed_log_probs(config, params, packed, mesh))
        values[list(packed.members)] = found[: packed.num_sequences]
    return values


def _packed(groups, rows: int, length: int) -> Iterable[packing.PackedBatch]:
    return packing.pack(
        groups,
        rows=rows,
        length=length,
        max_sequences=max_sequences(rows, length),
        skipped=[],
    )


def max_sequences(rows: int, length: int) -> int:
    """Room for sequences of 12 tokens on average; even, for pairs."""
    return max(2, rows * length // 12 // 2 * 2)


def _rewards(config, params, packed, mesh):
    return _rewards_jit(config, mesh, params, packed.batch, packed.last_token)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _rewards_jit(config, mesh, params, batch, last_token):
    values = forward.rewards(
        config,
        params,
        batch.tokens,
        positions=batch.positions,
        segment_ids=batch.segment_ids,
        layout=Layout(mesh),
    )
    return forward.pick(values, last_token)


def packed_log_probs(
    config: ModelConfig, params: Any, packed: packing.PackedBatch, mesh: Mesh
) -> jax.Array:
    """Sums float32 [N] of the masked token log-probs of a packed batch's sequences."""
    count = packed.last_token.shape[0]
    return _log_probs_jit(
        config, mesh, count, params, packed.batch, packed.sequence_ids
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _log_probs_jit(config, mesh, count, params, batch, sequence_ids):
    log_probs = forward.token_log_probs(
        config,
        params,
        batch.tokens,
        positions=batch.positions,
        segment_ids=batch.segment_ids,
        layout=Layout(mesh),
    )
    return sequences.sequence_log_probs(log_probs, batch.loss_mask, sequence_ids, count)

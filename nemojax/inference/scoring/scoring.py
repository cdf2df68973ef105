"""Rewards and sequence log-probs of many sequences.

For the lists of a stage in packed batches of one shape, the shape of its training, so
that one program is compiled. For any amount of text in padded batches of a few shapes
(`buckets`), which need no long row to hold a short text: as fast as packing where all
texts are short, and nearly twice as fast where the longest has 512 tokens. What
`begin_...` starts is computed while the caller prepares what comes next.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nemojax import losses
from nemojax.data.batching import packing
from nemojax.inference.scoring.buckets import Buckets, TokenSequence, batches
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
    return losses.sequence_log_probs(log_probs, batch.loss_mask, sequence_ids, count)


# Slots of a batch: of these a CPU's caches hold the activations, and GPUs and TPUs are
# busy with them.
_CPU_TOKENS, _ACCELERATOR_TOKENS = 4096, 32_768
_LANES = 128  # rows of the attention kernel of TPUs are a multiple of this


def choose_buckets(mesh: Mesh, max_length: int, batch_tokens: int = 0) -> Buckets:
    """Shapes of batches that a mesh can split.

    Args:
      mesh: where it runs.
      max_length: tokens of the longest sequence.
      batch_tokens: slots of a batch; 0: by the kind of device.
    """
    platform = mesh.devices.flat[0].platform
    default = _CPU_TOKENS if platform == "cpu" else _ACCELERATOR_TOKENS
    return Buckets(
        max_length,
        batch_tokens or default,
        multiple=math.lcm(_LANES if platform == "tpu" else 8, mesh.shape["tensor"]),
        row_multiple=mesh.shape["data"] * mesh.shape["pipe"],
    )


@dataclasses.dataclass(frozen=True)
class Pending:
    """Scores that a device is computing.

    Attributes:
      count: N, the sequences.
      parts: of each batch its members and their values, [B, ...], maybe not ready.
    """

    count: int
    parts: list[tuple[tuple[int, ...], jax.Array]]

    def result(self) -> np.ndarray:
        """Waits; float32 [N, ...] in the order of the sequences.

        A sequence's values depend on the others only in how sums are rounded: its
        batch may have another length.
        """
        if not self.parts:
            return np.zeros(0, np.float32)
        shape = self.parts[0][1].shape[1:]
        values = np.full((self.count, *shape), np.nan, np.float32)
        for members, found in self.parts:
            values[list(members)] = np.asarray(found)[: len(members)]
        return values


def begin_rewards(
    config: ModelConfig,
    params: Any,
    sequences: Sequence[TokenSequence],
    *,
    mesh: Mesh,
    buckets: Buckets,
) -> Pending:
    """Starts scoring; gives attribute values [N, K] at each sequence's last token.

    Args:
      config: sizes.
      params: with a reward head.
      sequences: tokens and masks, which are not looked at.
      mesh: where it runs.
      buckets: shapes of the batches.

    Raises:
      ValueError: a sequence that fits no bucket; names its index.
    """
    parts = [
        (batch.members, _last_jit(config, mesh, params, batch.tokens, batch.lengths))
        for batch in batches(sequences, buckets)
    ]
    return Pending(len(sequences), parts)


def begin_log_probs(
    config: ModelConfig,
    params: Any,
    sequences: Sequence[TokenSequence],
    *,
    mesh: Mesh,
    buckets: Buckets,
) -> Pending:
    """Starts scoring; gives sums [N] of masked token log-probs.

    Arguments and errors as for `begin_rewards`; the masks say what is summed.
    """
    parts = [
        (batch.members, _sums_jit(config, mesh, params, batch.tokens, batch.loss_mask))
        for batch in batches(sequences, buckets)
    ]
    return Pending(len(sequences), parts)


# What stands behind the end of a row is seen by nothing before it: attention is causal.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _last_jit(config, mesh, params, tokens, lengths):
    values_BSK = forward.rewards(config, params, tokens, layout=Layout(mesh))
    B, S = tokens.shape
    return forward.pick(values_BSK, jnp.arange(B) * S + lengths - 1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sums_jit(config, mesh, params, tokens, loss_mask):
    log_probs = forward.token_log_probs(config, params, tokens, layout=Layout(mesh))
    return jnp.where(loss_mask, log_probs, 0.0).sum(1)

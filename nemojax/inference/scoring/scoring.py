"""Rewards and sequence log-probs of many sequences, in padded batches of few shapes.

`begin_...` starts the computation and returns; the caller prepares what comes next
meanwhile (`buckets` has the shapes).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nemojax.inference.scoring.buckets import (
    Buckets,
    PaddedBatch,
    TokenSequence,
    batches,
)
from nemojax.models import forward
from nemojax.models.config import ModelConfig
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout

# Slots of a batch: of these a CPU's caches hold the activations, and GPUs and TPUs are
# busy with them.
_CPU_TOKENS, _ACCELERATOR_TOKENS = 4096, 32_768
_LANES = 128  # rows of the attention kernel of TPUs are a multiple of this


def choose_buckets(mesh: Mesh, max_length: int, batch_tokens: int = 0) -> Buckets:
    """Chooses shapes of batches that a mesh can split.

    Args:
      mesh: devices to run on.
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
    """Scores that the devices are computing.

    Attributes:
      count: N, the sequences.
      parts: members of each batch and their values, [B, ...], maybe not ready.
    """

    count: int
    parts: list[tuple[tuple[int, ...], jax.Array]]

    def result(self) -> np.ndarray:
        """Waits for the scores, float32 [N, ...] in the order of the sequences.

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
    """Starts computing attribute values [N, K] at each sequence's last token.

    Args:
      config: sizes.
      params: parameters with a reward head.
      sequences: tokens and masks; the masks are ignored.
      mesh: devices to run on.
      buckets: shapes of the batches.

    Raises:
      ValueError: a sequence that fits no bucket; names its index.
    """
    return _begun(
        sequences,
        buckets,
        mesh,
        lambda batch: _last_jit(config, mesh, params, batch.tokens, batch.lengths),
    )


def begin_log_probs(
    config: ModelConfig,
    params: Any,
    sequences: Sequence[TokenSequence],
    *,
    mesh: Mesh,
    buckets: Buckets,
) -> Pending:
    """Starts computing sums [N] of masked token log-probs.

    Arguments and errors as for `begin_rewards`; the masks say what is summed.
    """
    return _begun(
        sequences,
        buckets,
        mesh,
        lambda batch: _sums_jit(config, mesh, params, batch.tokens, batch.loss_mask),
    )


def _begun(
    sequences: Sequence[TokenSequence],
    buckets: Buckets,
    mesh: Mesh,
    compute: Callable[[PaddedBatch], jax.Array],
) -> Pending:
    parts = [
        (batch.members, meshes.in_turn(mesh, compute(batch)))
        for batch in batches(sequences, buckets)
    ]
    return Pending(len(sequences), parts)


# Padding behind the end of a row changes nothing before it: attention is causal.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _last_jit(config, mesh, params, tokens, lengths):
    values_BSK = forward.rewards(config, params, tokens, layout=Layout(mesh))
    B, S = tokens.shape
    return forward.pick(values_BSK, jnp.arange(B) * S + lengths - 1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sums_jit(config, mesh, params, tokens, loss_mask):
    log_probs = forward.token_log_probs(config, params, tokens, layout=Layout(mesh))
    return jnp.where(loss_mask, log_probs, 0.0).sum(1)

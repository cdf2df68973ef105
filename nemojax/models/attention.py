"""Rotary embedding and masked grouped-query attention.

Shape letters: B batch, S query positions, T key positions, H query heads,
G key/value heads, K head width.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nemojax.models.config import RopeScaling

# (queries_BSHK, keys_BSGK, values_BSGK) -> (outputs_BSHK, anything to hand back).
# Training, prefill and decoding differ only in this function.
Attend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]


def rotary_frequencies(
    rotary_dim: int, theta: float, scaling: RopeScaling | None = None
) -> np.ndarray:
    """Radians per position, float32 [rotary_dim / 2].

    Args:
      rotary_dim: even; the rotated dimensions of a head.
      theta: base of the frequencies.
      scaling: stretches the long wavelengths (Llama 3.1).
    """
    # Rounded to float32 where the published implementations do: at position 100,000
    # an error in the last place of a frequency turns a query by 0.006.
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    wavelengths = (theta ** exponents.astype(np.float64)).astype(np.float32)
    frequencies = np.float32(1) / wavelengths
    if scaling is None:
        return frequencies
    # How often a wave turns over within the original context.
    turns = scaling.original_positions * frequencies / np.float32(2 * np.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    stretched = frequencies / scaling.factor
    return np.where(kept < 1, kept * frequencies + (1 - kept) * stretched, frequencies)


def rotary(
    x_BSHK: jax.Array, positions_BS: jax.Array, frequencies: np.ndarray
) -> jax.Array:
    """Rotates the first dimensions of each head, in halves (not interleaved).

    Args:
      x_BSHK: queries or keys.
      positions_BS: int32 positions.
      frequencies: [R / 2], as `rotary_frequencies`; what is beyond R passes through.

    Returns:
      Array like `x_BSHK`. Angles are computed in float32.
    """
    half = len(frequencies)
    angles = positions_BS[..., None, None].astype(jnp.float32) * frequencies
    cos, sin = (
        jnp.cos(angles).astype(x_BSHK.dtype),
        jnp.sin(angles).astype(x_BSHK.dtype),
    )
    first, second, rest = jnp.split(x_BSHK, (half, 2 * half), axis=-1)
    return jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin, rest], axis=-1
    )


def attention(
    q_BSHK: jax.Array, k_BTGK: jax.Array, v_BTGK: jax.Array, mask_BST: jax.Array
) -> jax.Array:
    """Computes softmax attention; query head i reads key/value head `i // (H / G)`.

    Args:
      q_BSHK: queries.
      k_BTGK: keys.
      v_BTGK: values.
      mask_BST: bool, True where a query may look. A row without any True gives the
        mean of the values, which no loss may read.

    Returns:
      Outputs [B, S, H, K] in the dtype of `v_BTGK`; softmax in float32.
    """
    B, S, H, K = q_BSHK.shape
    T, G = k_BTGK.shape[1:3]
    R = H // G
    # The R query heads of a group share their keys: one matrix product a group.
    q_BGRSK = (q_BSHK * K**-0.5).reshape(B, S, G, R, K).transpose(0, 2, 3, 1, 4)
    scores = jnp.einsum(
        "bgqk,btgk->bgqt",
        q_BGRSK.reshape(B, G, R * S, K),
        k_BTGK,
        preferred_element_type=jnp.float32,
    ).reshape(B, G, R, S, T)
    scores = jnp.where(mask_BST[:, None, None], scores, -1e30)
    peak = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.exp(scores - peak).reshape(B, G, R * S, T)
    # Divided after the product: K numbers a query instead of T.
    total = weights.sum(-1, keepdims=True)
    mixed = jnp.einsum("bgqt,btgk->bgqk", weights.astype(v_BTGK.dtype), v_BTGK)
    mixed = (mixed / total).astype(v_BTGK.dtype).reshape(B, G, R, S, K)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(B, S, H, K)


def causal_mask(segment_ids_BS: jax.Array) -> jax.Array:
    """Returns bool [B, S, S]: a token sees itself and earlier ones of its segment."""
    S = segment_ids_BS.shape[1]
    same = segment_ids_BS[:, :, None] == segment_ids_BS[:, None, :]
    return same & jnp.tril(jnp.ones((S, S), bool))

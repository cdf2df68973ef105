"""Attention to keys and values that lie in blocks.

Shape letters: B sequences, S tokens of one, N blocks, Z tokens of a block, W blocks of
a sequence, T keys of a tile, C tokens of a call, H query heads, G key/value heads,
R = H / G, Q = R * S, K head width.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_FAR = -1e30


class Cached(NamedTuple):
    """Tile reader over the keys and values of sequences in one layer's cache.

    Attributes:
      read: (number of a tile) -> its keys and values [B, G, T, K].
      tiles: int32 scalar, how many to read. Those past a sequence's end change nothing
        in its result, bit for bit.
    """

    read: Callable[[jax.Array | int], tuple[jax.Array, jax.Array]]
    tiles: jax.Array | int


def cached(
    keys_NGZK: jax.Array,
    values_NGZK: jax.Array,
    table_BW: jax.Array,
    tiles: jax.Array,
    tile: int,
) -> Cached:
    """Makes the tile reader over one layer's blocks.

    Args:
      keys_NGZK: keys of the blocks.
      values_NGZK: values of the blocks.
      table_BW: block tables.
      tiles: number of tiles that hold the longest sequence.
      tile: T, keys of a tile.
    """
    W, per = table_BW.shape[1], tile // keys_NGZK.shape[2]
    if per == W:  # gathered here, once for all reads
        both = _gather(keys_NGZK, table_BW), _gather(values_NGZK, table_BW)
        return Cached(lambda number: both, 1)

    def read(number):
        own_BX = lax.dynamic_slice_in_dim(table_BW, number * per, per, 1)
        return _gather(keys_NGZK, own_BX), _gather(values_NGZK, own_BX)

    return Cached(read, tiles)


class _Mix(NamedTuple):
    """Running softmax, float32 [B, G, Q, 1 or K].

    Attributes:
      peak: the highest score so far.
      total: the sum of the weights relative to it.
      mixed: the values weighted by them.
    """

    peak: jax.Array
    total: jax.Array
    mixed: jax.Array


def attention(
    q_BSHK: jax.Array, old: Cached, positions_BS: jax.Array, G: int
) -> jax.Array:
    """Computes softmax attention to the keys at or before each query's position.

    Args:
      q_BSHK: queries.
      old: the cache, with these tokens' own keys and values in it.
      positions_BS: positions of the queries.
      G: key/value heads.

    Returns:
      [B, S, H, K] in the dtype of the queries; softmax in float32.
    """
    q_BGQK = _by_head(q_BSHK, G)
    shape = (*q_BGQK.shape[:3], 1)
    start = _Mix(jnp.full(shape, _FAR), jnp.zeros(shape), jnp.zeros(q_BGQK.shape))
    last_BQ = jnp.tile(positions_BS, (1, q_BSHK.shape[2] // G))
    return _finish(_walk(q_BGQK, old, last_BQ, start), q_BSHK)


def attention_beside(
    q_B1HK: jax.Array,
    old: Cached,
    length_B: jax.Array,
    new: tuple[jax.Array, jax.Array],
    index: jax.Array,
) -> jax.Array:
    """Computes `attention` of one query each, with the newest keys beside the cache.

    Args:
      q_B1HK: queries.
      old: the cache.
      length_B: int32, tokens that each sequence has in it.
      new: keys and values [B, G, C, K] of the tokens after them.
      index: int32 scalar, the place of the queries' own among them.
    """
    q_BGQK = _by_head(q_B1HK, new[0].shape[1])
    looks = jnp.arange(new[0].shape[2]) <= index
    scores = jnp.where(looks, _scores(q_BGQK, new[0]), _FAR)
    peak = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - peak)
    start = _Mix(peak, weights.sum(-1, keepdims=True), _mixed(weights, new[1]))
    return _finish(_walk(q_BGQK, old, length_B[:, None] - 1, start), q_B1HK)


def _walk(q_BGQK, old: Cached, last_BQ, start: _Mix) -> _Mix:
    """Adds the tiles to the softmax; a query attends to the keys up to its last."""

    def one(number, mix: _Mix) -> _Mix:
        k_BGTK, v_BGTK = old.read(number)
        T = k_BGTK.shape[2]
        looks = number * T + jnp.arange(T) <= last_BQ[:, None, :, None]
        scores = jnp.where(looks, _scores(q_BGQK, k_BGTK), _FAR)
        peak = jnp.maximum(mix.peak, scores.max(-1, keepdims=True))
        weights, kept = jnp.exp(scores - peak), jnp.exp(mix.peak - peak)
        total = mix.total * kept + weights.sum(-1, keepdims=True)
        return _Mix(peak, total, mix.mixed * kept + _mixed(weights, v_BGTK))

    return lax.fori_loop(0, old.tiles, one, start)


def _gather(cache_NGZK, own_BX) -> jax.Array:
    """Gathers blocks as [B, G, X * Z, K]: whole as they lie in memory, by head."""
    N, G, Z, K = cache_NGZK.shape
    own_BGX = own_BX[:, None] * G + jnp.arange(G)[:, None]
    flat = cache_NGZK.reshape(N * G, Z * K)
    found = flat.at[own_BGX].get(mode="promise_in_bounds")
    return found.reshape(*own_BGX.shape[:2], -1, K)


def _scores(q_BGQK, k_BGTK) -> jax.Array:
    return jnp.einsum(
        "bgqk,bgtk->bgqt", q_BGQK, k_BGTK, preferred_element_type=jnp.float32
    )


def _mixed(weights_BGQT, v_BGTK) -> jax.Array:
    return jnp.einsum(
        "bgqt,bgtk->bgqk",
        weights_BGQT.astype(v_BGTK.dtype),
        v_BGTK,
        preferred_element_type=jnp.float32,
    )


def _by_head(q_BSHK, G: int) -> jax.Array:
    """Reshapes queries to [B, G, Q, K], scaled."""
    B, S, H, K = q_BSHK.shape
    q = (q_BSHK * K**-0.5).reshape(B, S, G, H // G, K).transpose(0, 2, 3, 1, 4)
    return q.reshape(B, G, -1, K)


def _finish(mix: _Mix, q_BSHK) -> jax.Array:
    B, S, H, K = q_BSHK.shape
    G = mix.mixed.shape[1]
    mixed = (mix.mixed / mix.total).astype(q_BSHK.dtype).reshape(B, G, H // G, S, K)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(B, S, H, K)

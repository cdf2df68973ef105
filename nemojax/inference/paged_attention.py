"""Attention to keys and values that lie in blocks.

Shape letters: B rows, S tokens of a row, N blocks, Z tokens of a block, W blocks of a
row, T keys of a tile, H query heads, G key/value heads, R = H / G, K head width.
"""

import jax
import jax.numpy as jnp
from jax import lax

_FAR = -1e30


def attention(
    q_BSHK: jax.Array,
    keys_NGZK: jax.Array,
    values_NGZK: jax.Array,
    table_BW: jax.Array,
    positions_BS: jax.Array,
    tiles: jax.Array,
    tile: int,
) -> jax.Array:
    """Softmax attention to the keys at or before each query's position in its text.

    Args:
      q_BSHK: queries.
      keys_NGZK, values_NGZK: the blocks of a layer.
      table_BW: blocks of each row, in the order of its text.
      positions_BS: of the queries.
      tiles: int32 scalar, how many tiles to look at. Those past a row's text change
        nothing in its result, bit for bit.
      tile: T, keys of a tile.

    Returns:
      [B, S, H, K] in the dtype of the values; softmax in float32.
    """
    B, S, H, K = q_BSHK.shape
    G, Z = keys_NGZK.shape[1:3]
    R, per = H // G, tile // Z
    q_BGQK = (q_BSHK * K**-0.5).reshape(B, S, G, R, K).transpose(0, 2, 3, 1, 4)
    q_BGQK = q_BGQK.reshape(B, G, R * S, K)
    position_BQ = jnp.tile(positions_BS, (1, R))

    def one(number, carry):
        peak, total, mixed = carry
        blocks = lax.dynamic_slice_in_dim(table_BW, number * per, per, 1)
        # Of one block a tile this is no copy beside the gather.
        k_BGTK, v_BGTK = (
            cache[blocks].swapaxes(1, 2).reshape(B, G, tile, K)
            for cache in (keys_NGZK, values_NGZK)
        )
        scores = jnp.einsum(
            "bgqk,bgtk->bgqt", q_BGQK, k_BGTK, preferred_element_type=jnp.float32
        )
        place = number * tile + jnp.arange(tile)
        looks = place <= position_BQ[:, None, :, None]
        scores = jnp.where(looks, scores, _FAR)
        higher = jnp.maximum(peak, scores.max(-1, keepdims=True))
        weights, kept = jnp.exp(scores - higher), jnp.exp(peak - higher)
        found = jnp.einsum(
            "bgqt,bgtk->bgqk",
            weights.astype(v_BGTK.dtype),
            v_BGTK,
            preferred_element_type=jnp.float32,
        )
        total = total * kept + weights.sum(-1, keepdims=True)
        return higher, total, mixed * kept + found

    nothing = jnp.zeros((B, G, R * S, 1), jnp.float32)
    start = nothing + _FAR, nothing, jnp.zeros((B, G, R * S, K), jnp.float32)
    _, total, mixed = lax.fori_loop(0, tiles, one, start)
    mixed = (mixed / total).astype(values_NGZK.dtype).reshape(B, G, R, S, K)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(B, S, H, K)

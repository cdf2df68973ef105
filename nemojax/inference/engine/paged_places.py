"""Indices that the engine writes at, no two of them equal.

At indices that may be equal XLA's GPU programs write bfloat16 by compare-and-swap, some
hundred times slower than at those that are promised to differ. What is not to be
written has an index of its own behind the end of its array, where scatters drop it.
"""

from typing import Any

import jax
import jax.numpy as jnp


def put(array: jax.Array, where: Any, new: Any) -> jax.Array:
    """Writes at unique indices; drops what lies behind the end."""
    return array.at[where].set(new, mode="drop", unique_indices=True)


def slots(slot_B: jax.Array, count: int) -> jax.Array:
    """Returns the slots [B], those from `count` on each replaced by one of its own."""
    return jnp.where(slot_B < count, slot_B, count + jnp.arange(len(slot_B)))


def first_of_each(tokens_BS: jax.Array, size_B: jax.Array, count: int) -> jax.Array:
    """Returns each token id among a row's first `size` once, in order [B, S].

    The rest are ids from `count`, the size of the vocabulary, on.
    """
    offset = jnp.arange(tokens_BS.shape[1])
    behind = count + offset
    ids = jnp.sort(jnp.where(offset < size_B[:, None], tokens_BS, count), axis=1)
    again = jnp.pad(ids[:, 1:] == ids[:, :-1], ((0, 0), (1, 0)))
    return jnp.where(again | (ids >= count), behind, ids)


def cached(
    table_BW: jax.Array,
    start_B: jax.Array,
    size_B: jax.Array,
    S: int,
    block_size: int,
    count: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns block and place [B, S] of tokens in a cache of blocks.

    Args:
      table_BW: numbers of the blocks of each sequence.
      start_B: position of the first token.
      size_B: tokens that are written; the others are not.
      S: tokens in all.
      block_size: tokens of a block.
      count: blocks of the cache.
    """
    offset = jnp.arange(S)
    positions = start_B[:, None] + offset
    valid = offset < size_B[:, None]
    block = jnp.take_along_axis(table_BW, positions // block_size, 1, mode="clip")
    behind = count + jnp.arange(valid.size).reshape(valid.shape)
    return jnp.where(valid, block, behind), positions % block_size

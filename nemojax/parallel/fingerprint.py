"""The fingerprint of a parameter tree, computed where its shards are.

A sum of mixed bits, each with the place of its element, does not depend on how an array
is split or in which order shards are added, so no host ever holds a whole leaf.
"""

import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Odd constants of the finalizer of MurmurHash3; any odd seeds give independent sums.
_MULTIPLIERS = (0x85EBCA6B, 0xC2B2AE35)
_SEEDS = (0x9E3779B1, 0x7FEB352D, 0x846CA68B, 0xD35A2D97)
_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def parameters_sha256(params: Any) -> str:
    """Computes a hash of all parameters: equal bits, equal hash, on any mesh.

    The bits of each leaf become four sums of 32 bits on the devices, and SHA-256 takes
    these with paths, dtypes and shapes. It tells accidents apart, not forgeries.
    Several processes have to call it together.

    Args:
      params: a tree of arrays, on any mesh or on the host.

    Returns:
      64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(
            f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode()
        )
        digest.update(np.asarray(_sums(leaf)).tobytes())
    return digest.hexdigest()


@jax.jit
def _sums(leaf: jax.Array) -> jax.Array:
    """Returns uint32 [4]: sums of the leaf's mixed bits, modulo 2^32."""
    leaf = leaf.astype(jnp.uint8) if leaf.dtype == bool else leaf
    bits = jax.lax.bitcast_convert_type(leaf, _UNSIGNED[leaf.dtype.itemsize])
    places = [
        jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        for axis in range(leaf.ndim)
    ]

    def total(seed):
        mixed = functools.reduce(
            lambda found, place: _mix(found * jnp.uint32(seed) + place),
            places,
            jnp.uint32(seed),
        )
        return jnp.sum(_mix(mixed ^ _mix(bits.astype(jnp.uint32) + jnp.uint32(seed))))

    return jnp.stack([total(seed) for seed in _SEEDS])


def _mix(value: jax.Array) -> jax.Array:
    """Spreads each bit over all 32, one to one."""
    for shift, multiplier in zip((16, 13), _MULTIPLIERS, strict=True):
        value = (value ^ (value >> shift)) * jnp.uint32(multiplier)
    return value ^ (value >> 16)

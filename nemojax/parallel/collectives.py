"""The collectives that layers use, by mesh-axis name.

A layer is written once, with local (per-device) sizes. Outside of a `shard_map`,
where no axis name is bound, an axis has size 1 and its collectives are identities:
that is how `init` builds the global parameter tree with the same modules.
"""

import jax
import jax.numpy as jnp
from jax import lax


def axis_size(axis: str) -> int:
    """Returns the number of devices along a mesh axis; 1 where it is not bound."""
    try:
        return lax.axis_size(axis)
    except NameError:
        return 1


def axis_index(axis: str) -> jax.Array | int:
    """Returns this device's coordinate along a mesh axis; 0 where it is not bound."""
    try:
        return lax.axis_index(axis)
    except NameError:
        return 0


def all_gather(x: jax.Array, axis: str, dim: int) -> jax.Array:
    """Concatenates the shards of `x` along `dim` on every device of the axis."""
    if axis_size(axis) == 1:
        return x
    return lax.all_gather(x, axis, axis=dim, tiled=True)


def reduce_scatter(x: jax.Array, axis: str, dim: int) -> jax.Array:
    """Sums `x` over the axis and leaves each device its own slice of `dim`."""
    if axis_size(axis) == 1:
        return x
    return lax.psum_scatter(x, axis, scatter_dimension=dim, tiled=True)


def all_gather_equal(x: jax.Array, axis: str, dim: int) -> jax.Array:
    """Gathers all shards of `x` and marks the result as equal along the axis.

    For small arrays: it is the sum of all shards, each in its place among zeros.
    """
    shape = list(x.shape)
    shape[dim] *= axis_size(axis)
    # Zeros made of x carry the right device-varying type.
    zeros = jnp.broadcast_to(x.reshape(-1)[0] * 0, shape)
    place = axis_index(axis) * x.shape[dim]
    return all_reduce(lax.dynamic_update_slice_in_dim(zeros, x, place, dim), axis)


def all_reduce(x: jax.Array, axis: str | tuple[str, ...]) -> jax.Array:
    """Sums `x` over the axis; kept for size 1, where it only marks `x` as equal."""
    try:
        return lax.psum(x, axis)
    except NameError:
        return x


def all_reduce_max(x: jax.Array, axis: str | tuple[str, ...]) -> jax.Array:
    """Returns the maximum of `x` over the axis.

    It carries no gradient: stop it before the call.
    """
    try:
        return lax.pmax(x, axis)
    except NameError:
        return x


def rotate(x: jax.Array, axis: str, by: int = 1) -> jax.Array:
    """Returns `x` of the device `by` places before this one on the axis, cyclically."""
    size = axis_size(axis)
    return lax.ppermute(x, axis, [(i, (i + by) % size) for i in range(size)])


def vary(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Marks `x`, which is equal along mesh axes, as free to differ.

    Its cotangent is then summed once and in the dtype of `x`: axis after axis, so that
    axes of two devices give the same bits on every network.
    """
    for axis in axes:
        x = lax.pcast(x, axis, to="varying")
    return x

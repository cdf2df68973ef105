"""Weights that are split over data replicas (ZeRO), inside a `shard_map`.

The optimizer sees a shard of each float32 parameter; a step works with the whole in the
compute dtype. `gather` goes one way, and its transpose, a reduce-scatter, brings the
gradient back: there is no other code for it.

A weight that is used by many micro-batches has its cotangents added up in its own
dtype. To add them in float32 without holding the weight in float32, the sum is kept
beside it: `accumulator` makes zeros whose cotangent becomes the parameter's, and
`attach` sends a weight's cotangent there. The zeros are never read.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from nemojax.parallel import collectives
from nemojax.parallel.mesh import AXES


def gather(
    shard: jax.Array, dim: int, axes: tuple[str, ...], dtype: jax.typing.DTypeLike
) -> jax.Array:
    """The whole weight in `dtype`, put together along `dim` over mesh axes."""
    whole = shard.astype(dtype)
    for axis in reversed(axes):
        whole = collectives.all_gather(whole, axis, dim)
    return whole


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def accumulator(shard: jax.Array, dim: int, axes: tuple[str, ...]) -> jax.Array:
    """Float32 zeros of the whole weight's shape; their cotangent is `shard`'s."""
    shape = list(shard.shape)
    for axis in axes:
        shape[dim] *= collectives.axis_size(axis)
    return lax.pcast(jnp.zeros(shape, jnp.float32), AXES, to="varying")


def _accumulator_forward(shard, dim, axes):
    return accumulator(shard, dim, axes), None


def _accumulator_backward(dim, axes, _, cotangent):
    for axis in axes:
        cotangent = collectives.reduce_scatter(cotangent, axis, dim)
    return (cotangent,)


accumulator.defvjp(_accumulator_forward, _accumulator_backward)


@jax.custom_vjp
def attach(weight: jax.Array, sums: jax.Array) -> jax.Array:
    """`weight`, whose cotangent goes to `sums` in float32 and not to itself."""
    del sums
    return weight


def _attach_forward(weight, sums):
    del sums
    return weight, None


def _attach_backward(_, cotangent):
    return None, cotangent.astype(jnp.float32)


attach.defvjp(_attach_forward, _attach_backward)

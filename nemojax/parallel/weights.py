"""Weights that are split over data replicas (ZeRO), inside a `shard_map`.

The optimizer sees a shard of each float32 parameter; a step works with the whole in the
compute dtype. `gather` goes one way, and its transpose, a reduce-scatter, brings the
gradient back: there is no other code for it.

The layers' weights are used by many micro-batches. Where their gradients add up, and
in which dtype, is not left to autodiff: it would use the weight's dtype, and the sum
over a scan of layers would be a new array in every micro-batch. `accumulator` makes
zeros whose cotangent becomes the parameter's, and `attach` sends a weight's cotangent
there. The zeros are never read.
"""

import functools

import jax
import jax.numpy as jnp

from nemojax.parallel import collectives
from nemojax.parallel.mesh import AXES


def gather(
    shard: jax.Array, dim: int, axes: tuple[str, ...], dtype: jax.typing.DTypeLike
) -> jax.Array:
    """Gathers the whole weight in `dtype` along `dim` over mesh axes.

    A quantised one, of a byte a number, is gathered as it is.
    """
    whole = shard if shard.dtype.itemsize == 1 else shard.astype(dtype)
    for axis in reversed(axes):
        whole = collectives.all_gather(whole, axis, dim)
    return whole


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def accumulator(
    shard: jax.Array, dim: int, axes: tuple[str, ...], dtype: jnp.dtype
) -> jax.Array:
    """Returns zeros of the whole weight's shape; their cotangent is `shard`'s."""
    shape = list(shard.shape)
    for axis in axes:
        shape[dim] *= collectives.axis_size(axis)
    return collectives.vary(jnp.zeros(shape, dtype), AXES)


def _accumulator_forward(shard, dim, axes, dtype):
    return accumulator(shard, dim, axes, dtype), shard[(slice(0),) * shard.ndim]


def _accumulator_backward(dim, axes, dtype, empty, cotangent):
    del dtype
    for axis in axes:
        cotangent = collectives.reduce_scatter(cotangent, axis, dim)
    return (cotangent.astype(empty.dtype),)


accumulator.defvjp(_accumulator_forward, _accumulator_backward)


@jax.custom_vjp
def attach(weight: jax.Array, into: jax.Array) -> jax.Array:
    """Returns `weight`; its cotangent goes to `into`, of equal shape and dtype."""
    del into
    return weight


def _attach_forward(weight, into):
    del into
    return weight, None


def _attach_backward(_, cotangent):
    return None, cotangent


attach.defvjp(_attach_forward, _attach_backward)

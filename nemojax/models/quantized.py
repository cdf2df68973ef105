"""Weights of one byte: int8 or fp8 with a scale for each output channel.

A quantised kernel is two leaves: the kernel's own name holds the codes, and
`<name>_scale` beside it the scales, so that `kernel = codes * scale`. The layers apply
it as `(x @ codes) * scale` (`layers.linear`): the codes are widened inside of the
product, and activations stay as they are ("weight-only").

Quantised are the matrices of the layers and the LM head. The embedding table is not:
a token reads one row of it, so one byte would save memory (1.4 % of 340B's) and no
time; a tied LM head is that table and stays too. Norms, biases and the reward head are
small.

The scale is symmetric and exact at the largest weight of a channel: `max |w| / 127`, or
`/ 448` in fp8 (e4m3fn, Micikevicius et al. 2022, "FP8 formats for deep learning").
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from nemojax.errors import UserError
from nemojax.models import trees
from nemojax.models.layers import SCALE_SUFFIX
from nemojax.models.partition import scale_side
from nemojax.models.trees import Path

# Kind -> dtype of the codes, and the largest code that is used.
KINDS = {"int8": (jnp.int8, 127.0), "fp8": (jnp.float8_e4m3fn, 448.0)}


def check(kind: str) -> None:
    """Raises ValueError for an unknown kind, with those that there are."""
    if kind not in KINDS:
        raise UserError(f"unknown kind {kind!r} of weights; one of {', '.join(KINDS)}")


def is_quantized(leaf: Any) -> bool:
    """Returns whether a leaf (array or shape) holds codes."""
    return leaf.dtype in [jnp.dtype(dtype) for dtype, _ in KINDS.values()]


def quantize(params: Any, kind: str) -> Any:
    """Quantises the kernels of a parameter tree; the given one stays as it is.

    Args:
      params: parameters as `models.forward.init` makes them: arrays or shapes.
      kind: a name of `KINDS`.

    Returns:
      The tree with codes [.., in, out] and scales float32 [.., out] ([V, D] and [V] of
      the LM head). All other leaves are the same arrays.

    Raises:
      UserError: an unknown kind, or kernels that are quantised already.
    """
    return trees.build(leaves(trees.items(params), kind))


def leaves(
    found: Iterable[tuple[Path, Any]], kind: str, *, consume: bool = False
) -> Iterator[tuple[Path, Any]]:
    """Quantises one leaf after the other, so that only one kernel is there in full.

    Args:
      found: paths and leaves.
      kind: a name of `KINDS`.
      consume: each kernel that was quantised is deleted from its devices.

    Raises:
      UserError: as `quantize`.
    """
    check(kind)
    for path, leaf in found:
        side = scale_side(path)
        if side is None:
            yield path, leaf
            continue
        if is_quantized(leaf):
            raise UserError(f"{'.'.join(path)} is quantised already")
        axis = -1 - side  # the side that comes in
        if isinstance(leaf, jax.ShapeDtypeStruct):
            codes, scale = jax.eval_shape(lambda w: _quantize(w, kind, axis), leaf)  # noqa: B023
        else:
            codes, scale = _quantize(leaf, kind, axis)
        if consume and isinstance(leaf, jax.Array):
            jax.block_until_ready(codes)
            leaf.delete()
        yield path, codes
        yield (*path[:-1], path[-1] + SCALE_SUFFIX), scale


def nbytes(params: Any, dtype: jax.typing.DTypeLike) -> int:
    """Counts the bytes of a tree used in `dtype`: codes take one, scales four."""
    item = jnp.dtype(dtype).itemsize

    def size(path, leaf):
        if path[-1].endswith(SCALE_SUFFIX):
            return 4 * leaf.size
        return leaf.size * (1 if is_quantized(leaf) else item)

    return sum(size(path, leaf) for path, leaf in trees.items(params))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _quantize(kernel: jax.Array, kind: str, axis: int) -> tuple[jax.Array, jax.Array]:
    """Returns codes and scales; `axis` is the input side, which each channel spans."""
    dtype, largest = KINDS[kind]
    wide = kernel.astype(jnp.float32)
    scale = jnp.max(jnp.abs(wide), axis=axis) / largest
    # A channel of zeros, or of numbers whose scale underflows: its codes are zeros.
    scale = jnp.where(scale == 0, 1.0, scale)
    codes = wide / jnp.expand_dims(scale, axis)
    if kind == "int8":
        codes = jnp.round(codes)
    # The division rounds: the largest weight may be a bit above the largest code.
    return jnp.clip(codes, -largest, largest).astype(dtype), scale

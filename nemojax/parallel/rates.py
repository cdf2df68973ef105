"""Rates of a device, measured in seconds: a matrix product, a copy in its memory."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Rates:
    """Highest rates of a device, as measured.

    Attributes:
      size: rows and columns of the matrices.
      dtype: dtype of the matrices.
      flops: operations per second of a product of two of them.
      copied: bytes per second that are read and written.
    """

    size: int
    dtype: str
    flops: float
    copied: float


def measure(seconds: float = 3.0) -> Rates:
    """Measures the first device of this process.

    Args:
      seconds: time in all, without what compiling takes; each rate is measured once in
        any case.
    """
    large = jax.local_devices()[0].platform != "cpu"
    size, dtype = (8192, jnp.bfloat16) if large else (1024, jnp.float32)
    # Zeros and ones would take less power than numbers that differ.
    matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
    numbers = jax.random.normal(jax.random.key(0), (2**27 if large else 2**23,))
    product, negative = jax.jit(jnp.matmul), jax.jit(jnp.negative)
    flops = _rate(lambda: product(matrix, matrix), 2 * size**3, seconds / 2)
    copied = _rate(lambda: negative(numbers), 2 * numbers.nbytes, seconds / 2)
    return Rates(size, jnp.dtype(dtype).name, flops, copied)


def _rate(
    call: Callable[[], Any], work: float, seconds: float, burst: int = 8
) -> float:
    """Returns the work per second of the fastest burst of calls."""
    jax.block_until_ready(call())
    best, until = 0.0, time.monotonic() + seconds
    while True:
        start = time.monotonic()
        # The device does them in order, so that the last ends last.
        jax.block_until_ready([call() for _ in range(burst)])
        end = time.monotonic()
        best = max(best, burst * work / (end - start))
        if end >= until:
            return best

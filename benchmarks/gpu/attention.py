"""Forms of attention beside plain float32 attention: differences and times."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu import sizes, timing
from benchmarks.gpu.job import Job
from nemojax.models import attention, attention_kernels
from nemojax.models.attention_kernels import Case, Kernel
from nemojax.parallel.layout import Layout

# Width of a head -> query heads, key heads: a 4B model's, and a GPU's share of 340B's.
_HEADS = {128: (24, 8), 192: (12, 1)}
_DOCUMENTS = 5  # of a packed row
_NAMES = ("outputs", "queries", "keys", "values")


def run(job: Job) -> None:
    """Measures each kernel for this kind of device at both widths, packed and not."""
    length, layout = sizes.length(job.small), Layout()
    for width, (heads, groups) in _HEADS.items():
        for packed in (False, True):
            inputs = _inputs(length, heads, groups, width, packed)
            with jax.default_matmul_precision("highest"):
                expected = jax.jit(_passes(_reference))(
                    *(x.astype(jnp.float32) for x in inputs[:4]), inputs[4]
                )
            for kernel in attention_kernels.KERNELS:
                case = Case(
                    layout.platform, "bfloat16", width, length, layout.capability
                )
                if kernel.platforms and case.platform not in kernel.platforms:
                    continue
                labels = {"kernel": kernel.name, "width": width, "packed": packed}
                flops = attention_flops(length, heads, width)
                job.measure(
                    labels,
                    functools.partial(_kernel, kernel, case, inputs, expected, flops),
                )


def attention_flops(length: int, heads: int, width: int) -> float:
    """Counts the operations of a causal forward pass over one row."""
    return 2.0 * length * length * heads * width


def _inputs(length: int, heads: int, groups: int, width: int, packed: bool) -> tuple:
    """Returns queries, keys, values, the outputs' cotangent, and segments."""
    keys = jax.random.split(jax.random.key(0), 4)
    arrays = [
        jax.random.normal(key, (1, length, count, width), jnp.bfloat16)
        for key, count in zip(keys, (heads, groups, groups, heads), strict=True)
    ]
    cuts = np.random.default_rng(0).integers(1, length, _DOCUMENTS - 1)
    segments = np.searchsorted(np.sort(cuts), np.arange(length), side="right") + 1
    return *arrays, jnp.asarray(segments[None], jnp.int32) if packed else None


def _reference(
    q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array | None
) -> jax.Array:
    if ids is None:
        ids = jnp.ones(q.shape[:2], jnp.int32)
    return attention.attention(q, k, v, attention.causal_mask(ids))


def _passes(form: attention_kernels.CausalAttention):
    def both(q, k, v, cotangent, ids):
        out, back = jax.vjp(lambda q, k, v: form(q, k, v, ids), q, k, v)
        return out, *back(cotangent)

    return both


def _kernel(
    kernel: Kernel, case: Case, inputs: tuple, expected: tuple, flops: float
) -> Mapping[str, Any]:
    if missing := kernel.missing(case):
        raise ValueError(f"needs {missing}")
    both = jax.jit(_passes(kernel.run))
    forward = jax.jit(kernel.run)
    found = both(*inputs)
    errors = {
        f"error_of_{name}": _error(a, b)
        for name, a, b in zip(_NAMES, found, expected, strict=True)
    }
    forwards = timing.timed(lambda: forward(*inputs[:3], inputs[4]), number=20)
    passes = timing.timed(lambda: both(*inputs), number=20)
    return {
        **errors,
        "forward_ms": 1e3 * forwards.best,
        **passes.milliseconds,
        # Backwards has five products for the forward pass's two.
        "causal_tflops": 3.5 * flops / passes.best / 1e12,
    }


@jax.jit
def _distance(found: jax.Array, expected: jax.Array) -> jax.Array:
    difference = found.astype(jnp.float32) - expected
    return jnp.linalg.norm(difference) / jnp.linalg.norm(expected)


def _error(found: jax.Array, expected: jax.Array) -> float:
    """Returns the norm of the difference as a share of the expected norm."""
    return float(_distance(found, expected))

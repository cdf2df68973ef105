"""What the machine itself reaches: products, copies, and starting a program."""

import functools

import jax
import jax.numpy as jnp

from benchmarks.gpu import sizes, timing
from benchmarks.gpu.job import Job


def run(job: Job) -> None:
    """Measures square products, those of the layers, memory and an empty program."""
    config, length = sizes.share(job.small), sizes.length(job.small)
    square = 256 if job.small else 8192
    for m, k, n in ((square,) * 3, (length, config.d_model, config.d_ff)):
        job.measure(
            {"what": f"bfloat16 product {m} x {k} x {n}"},
            functools.partial(_product, m, k, n),
        )
    job.measure({"what": "device copy"}, functools.partial(_copy, job.small))
    job.measure({"what": "program that does nothing"}, _start)


def _row(timing: timing.Timing, rate: float | None, unit: str) -> dict:
    return {**timing.milliseconds, "rate": rate, "unit": unit}


def _product(m: int, k: int, n: int) -> dict:
    keys = jax.random.split(jax.random.key(0))
    a = jax.random.normal(keys[0], (m, k), jnp.bfloat16)
    b = jax.random.normal(keys[1], (k, n), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    found = timing.timed(lambda: product(a, b), number=20)
    return _row(found, 2 * m * k * n / found.best / 1e12, "TFLOP/s")


def _copy(small: bool) -> dict:
    found, rate = copies(small)
    return _row(found, rate / 1e12, "TB/s read and written")


def copies(small: bool) -> tuple[timing.Timing, float]:
    """Returns the time of a copy in place, and bytes a second, read and written."""
    count = 2**20 if small else 2**30
    held = [jnp.zeros(count, jnp.bfloat16)]
    change = jax.jit(lambda x: -x, donate_argnums=0)

    def call():
        held[0] = change(held[0])
        return held[0]

    found = timing.timed(call, number=20)
    return found, 2 * 2 * count / found.best


def _start() -> dict:
    x = jnp.zeros(8)
    nothing = jax.jit(lambda x: x + 1)
    return _row(timing.timed(lambda: nothing(x), number=200), None, "")

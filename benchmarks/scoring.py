"""Scoring in padded batches of few shapes, of several sizes.

    python -m benchmarks.scoring

A reward model of half a million parameters and texts of 42 tokens on average (their
logarithms have a standard deviation of 0.6), the longest of 120 or of 512. Prints rows
and tokens for each second of processor time, which other work on the machine disturbs
less than the clock; the better of two runs after one that compiles. Takes a minute.
"""

import functools
import time
from collections.abc import Callable

import jax
import numpy as np
from absl import app, flags

from nemojax.cli import host
from nemojax.inference.scoring import scoring
from nemojax.models import forward, presets
from nemojax.parallel import mesh as meshes

FLAGS = flags.FLAGS
flags.DEFINE_integer("texts", 4000, "to score", lower_bound=1)


def texts(longest: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tokens and masks."""
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.lognormal(np.log(36), 0.6, FLAGS.texts), 8, longest)
    return [
        (rng.integers(0, 700, size), np.zeros(size, bool)) for size in sizes.astype(int)
    ]


def seconds(run: Callable[[], np.ndarray]) -> float:
    """Of processor time, the least of two runs."""
    run()
    found = []
    for _ in range(2):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return min(found)


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    host.prepare()
    config = presets.miniature()
    mesh = meshes.make_mesh(data=min(2, jax.device_count()))
    init = jax.jit(functools.partial(forward.init, config, num_attributes=5))
    params = init(jax.random.key(0))

    def padded(sequences, longest, slots):
        buckets = scoring.choose_buckets(mesh, longest, slots)
        pending = scoring.begin_rewards(
            config, params, sequences, mesh=mesh, buckets=buckets
        )
        return pending.result()

    for longest in (120, 512):
        sequences = texts(longest)
        tokens = sum(len(ids) for ids, _ in sequences)
        for slots in (2048, 4096, 8192):
            spent = seconds(functools.partial(padded, sequences, longest, slots))
            print(
                f"longest {longest:>3}, {slots} slots: "
                f"{len(sequences) / spent:>6,.0f} rows/s, "
                f"{tokens / spent:>8,.0f} tokens/s",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)

"""A DPO step of a model of 1.2 billion parameters, with a cached reference."""

from typing import Any

import numpy as np

from benchmarks import preference_pairs
from benchmarks.gpu import sizes, timing
from benchmarks.gpu.job import Job
from benchmarks.preference_pairs import PairsJob

WARM, STEPS, REPEATS = 2, 6, 2


def pairs_job(small: bool) -> PairsJob:
    """Returns the pairs and the model; TRL gets the same."""
    config = sizes.billion(small)
    if small:
        return PairsJob(
            config, pairs=2, batches=2, prompt=(16, 8, 32), answer=(16, 8, 32)
        )
    return PairsJob(
        config,
        pairs=4,  # TRL keeps all activations of their padded rows
        batches=6,
        prompt=(192, 64, 512),
        answer=(320, 32, 1024),
        multiple=128,
        remat="selective",
    )


def run(job: Job) -> None:
    """Measures steps, each with the packing of its pairs."""
    job.measure({"what": "DPO step, cached"}, lambda: _row(pairs_job(job.small)))


def _row(asked: PairsJob) -> dict[str, Any]:
    take = preference_pairs.jax_step(asked, cached=True)
    take(WARM)
    found = timing.repeated(take, STEPS, REPEATS)
    rows, length = preference_pairs.shape(asked, preference_pairs.pairs(asked))
    return {**columns(asked, found), "rows": rows, "length": length}


def columns(asked: PairsJob, found: timing.Timing) -> dict[str, Any]:
    """Returns what the rows of both sides tell."""
    tokens = [
        sum(preference_pairs.lengths(batch)) for batch in preference_pairs.pairs(asked)
    ]
    return {
        **found.milliseconds,
        "pairs": asked.pairs,
        "tokens_per_s": float(np.mean(tokens)) / found.median,
    }

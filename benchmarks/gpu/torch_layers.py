"""The layers of `layers.py` in transformers with torch: nothing is recomputed."""

from typing import Any

from benchmarks import torch_model
from benchmarks.gpu import sizes, timing
from benchmarks.gpu.job import Job
from nemojax.models.config import ModelConfig


def run(job: Job) -> None:
    """Measures forward and backward passes in bfloat16 with torch's attention."""
    torch_model.torch()  # says so where it is not installed
    config, length = sizes.share(job.small), sizes.length(job.small)
    job.measure({"what": "pass", "rows": 1}, lambda: _pass(config, length))


def _pass(config: ModelConfig, length: int) -> dict[str, Any]:
    model = torch_model.random(config, "bfloat16").train()
    shape, where = (1, length), torch_model.device()
    ids = torch_model.torch().randint(0, config.vocab_size, shape, device=where)

    def call() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)

    found = timing.timed(call, wait=torch_model.wait)
    return {
        **found.milliseconds,
        **timing.training_rates(
            config, 1, length, found.best, torch_model.device_name()
        ),
    }

"""The DPO step of `dpo.py` in TRL's trainer."""

import importlib
import tempfile
import time
from typing import Any

from benchmarks import preference_pairs, torch_model
from benchmarks.gpu import dpo, timing
from benchmarks.gpu.job import Job


def run(job: Job) -> None:
    """Measures steps from inside of the trainer's own loop."""
    for name in ("torch", "trl", "datasets"):  # says so where one is not installed
        importlib.import_module(name)
    job.measure({"what": "DPO step, cached"}, lambda: _row(job.small))


def _row(small: bool) -> dict[str, Any]:
    asked, seconds = dpo.pairs_job(small), []

    class Turns(importlib.import_module("transformers").TrainerCallback):
        """Takes the time of each turn."""

        taken, start = -dpo.WARM, 0.0

        def on_step_end(self, args, state, control, **_):
            self.taken += 1
            if self.taken % dpo.STEPS == 0 and self.taken >= 0:
                torch_model.wait()
                if self.taken:
                    seconds.append((time.perf_counter() - self.start) / dpo.STEPS)
                control.should_training_stop = len(seconds) == dpo.REPEATS
                self.start = time.perf_counter()

    def make_model() -> Any:
        return torch_model.random(asked.config, "float32")

    with tempfile.TemporaryDirectory() as folder:
        trainer = preference_pairs.trl_trainer(asked, make_model, True, folder)
        trainer.add_callback(Turns())
        trainer.train()
    found = timing.Timing(min(seconds), sorted(seconds)[len(seconds) // 2])
    return dpo.columns(asked, found)

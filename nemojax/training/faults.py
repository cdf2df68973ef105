"""Steps that went wrong: which to refuse, what went wrong, and when to give up."""

import json
import math
import pathlib
import statistics
import sys
from collections.abc import Mapping
from typing import Any

from nemojax.parallel import processes
from nemojax.training import metrics
from nemojax.training.stopping import Diverged

FAULTS = "faults.jsonl"
_WINDOW = 100  # steps whose gradients say what is usual
_FEWEST = 20  # before that nothing is


class Watch:
    """Observer of the steps of one run, the same on every process."""

    def __init__(self, directory: pathlib.Path, spike_factor: float, max_skipped: int):
        self._path = directory / FAULTS
        self._factor, self._most = spike_factor, max_skipped
        self._norms: dict[int, float] = {}
        self._in_a_row = 0

    def remember(self, path: pathlib.Path, start: int) -> None:
        """Reads what an interrupted run saw until step `start` from its metrics."""
        for row in metrics.read_metrics(path):
            if row["step"] <= start:
                if row.get("skipped"):
                    self._in_a_row += 1
                else:
                    self.applied(row["step"], row)

    def limit(self, before: int) -> float | None:
        """Returns the gradient norm above which a step is refused; None: no limit.

        It depends on the steps before the last one, which are known when the next is
        taken, and so is the same for a run that was interrupted.
        """
        if not self._factor:
            return None
        seen = [norm for step, norm in self._norms.items() if step < before]
        if len(seen) < _FEWEST:
            return math.inf
        return self._factor * statistics.median(seen[-_WINDOW:])

    def applied(self, step: int, row: Mapping[str, float]) -> None:
        """Records that step `step` was applied, with `row`, its metrics."""
        self._in_a_row = 0
        if self._factor:
            self._norms[step] = row["grad_norm"]
            while len(self._norms) > _WINDOW + 2:
                del self._norms[next(iter(self._norms))]

    def skipped(
        self,
        name: str,
        step: int,
        limit: float | None,
        row: Mapping[str, float],
        again: Mapping[str, Any],
    ) -> None:
        """Records why step `step` was not applied, and its metrics once more.

        Args:
          name: name of the run.
          step: number of the step from 1; its batch is `batches[step - 1]`.
          limit: limit of its gradient norm.
          row: metrics of the step.
          again: metrics of the same batch once more, on the parameters of now. If they
            are as bad, it is the data or the parameters; if not, the machine.

        Raises:
          Diverged: it is one too many in a row.
        """
        self._in_a_row += 1
        verdict = "reproducible" if bool(again["skipped"]) else "transient"
        fault = {
            "step": step,
            "batch": step - 1,
            "verdict": verdict,
            "loss": str(row["loss"]),
            "grad_norm": str(row["grad_norm"]),
            "limit": None if limit is None else str(limit),
            "loss_again": str(float(again["loss"])),
            "grad_norm_again": str(float(again["grad_norm"])),
        }
        message = (
            f"{name}: step {step} was not applied ({verdict}): loss {row['loss']:.4g}, "
            f"gradient {row['grad_norm']:.4g}"
        )
        if processes.is_process_0():
            with self._path.open("a") as file:
                file.write(json.dumps(fault) + "\n")
            print(f"{message}; see {self._path}", file=sys.stderr, flush=True)
        if self._in_a_row > self._most:
            raise Diverged(
                f"{message}, and {self._most} before it: look at these batches and at "
                f"the learning rate; the faults are in {self._path}"
            )

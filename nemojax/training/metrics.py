"""Metrics of a run: `metrics.jsonl`, TensorBoard, and the text of a progress line."""

import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemojax.io import folders, sealed


class MetricsLog:
    """`metrics.jsonl`: one JSON object a step, flushed as it comes.

    Re-opened by a resumed run, it drops the lines after `start_step` (and a torn
    last line), so that each step stands there once.

    Attributes:
      path: path of the file.
      lost_seconds: seconds of the steps whose lines were dropped.
    """

    def __init__(self, path: Path, start_step: int = 0):
        self.path = path
        rows = [row for row in read_metrics(path) if "step" in row]
        kept = [row for row in rows if row["step"] <= start_step]
        dropped = [row for row in rows if row["step"] > start_step]
        missing = start_step - len(kept)
        if missing > 0:
            print(
                f"{path}: the rows of {missing} of the first {start_step} steps are "
                "missing: reports will lack them",
                file=sys.stderr,
            )
        self.lost_seconds = sum(row.get("seconds", 0.0) for row in dropped)
        path.parent.mkdir(parents=True, exist_ok=True)
        folders.write_file(path, "".join(map(_line, kept)))
        self._file = path.open("a")

    def write(self, row: dict[str, Any]) -> None:
        """Appends one step; a number that is not finite is null in the file."""
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of a `metrics.jsonl` as `sealed.read_lines` does.

    What is null there was not finite, and is nan.
    """
    return [
        {k: math.nan if v is None else v for k, v in row.items()}
        for row in sealed.read_lines(path)
    ]


def _line(row: dict[str, Any]) -> str:
    def finite(value):
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return sealed.line({name: finite(value) for name, value in row.items()})


def tensorboard(directory: Path) -> Callable[[dict[str, Any]], None]:
    """Writes rows of metrics as events that TensorBoard shows.

    Raises:
      ImportError: tensorboardX is not installed.
    """
    import tensorboardX

    @functools.cache
    def writer() -> tensorboardX.SummaryWriter:  # has a thread: not before it is used
        return tensorboardX.SummaryWriter(str(directory))

    def write(row: dict[str, Any]) -> None:
        events = writer()
        for name, value in row.items():
            if name != "step":
                events.add_scalar(name, float(value), row["step"])
        events.flush()

    return write


def summary(row: dict[str, Any]) -> str:
    """Returns what a progress line reports of a step."""
    parts = [f"loss {row['loss']:.4f}"]
    if "tokens_per_second" in row:
        parts.append(f"{row['tokens_per_second']:,.0f} tokens/s")
    if "mfu" in row:
        parts.append(f"MFU {row['mfu']:.1%}")
    return "  ".join(parts)

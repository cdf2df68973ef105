"""What a run tells: `metrics.jsonl`, the progress line, the time left."""

import functools
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from nemojax.io import folders


class MetricsLog:
    """`metrics.jsonl`: one JSON object a step, flushed as it comes.

    Re-opened by a resumed run, it drops the lines after `start_step` (and a torn
    last line), so that each step stands there once.

    Attributes:
      path: of the file.
      lost_seconds: of the steps whose lines were dropped.
    """

    def __init__(self, path: Path, start_step: int = 0):
        self.path = path
        rows = read_metrics(path)
        kept = [row for row in rows if row["step"] <= start_step]
        dropped = [row for row in rows if row["step"] > start_step]
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
    """The rows of a `metrics.jsonl` up to a torn line; none if there is no file.

    What is null there was not finite, and is nan.
    """
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        rows.append({k: math.nan if v is None else v for k, v in row.items()})
    return rows


def _line(row: dict[str, Any]) -> str:
    def finite(value):
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps({name: finite(value) for name, value in row.items()}) + "\n"


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
    """What a progress line tells of a step."""
    parts = [f"loss {row['loss']:.4f}"]
    if "tokens_per_second" in row:
        parts.append(f"{row['tokens_per_second']:,.0f} tokens/s")
    if "mfu" in row:
        parts.append(f"MFU {row['mfu']:.1%}")
    return "  ".join(parts)


class Progress:
    """One line of progress: rewritten in a terminal, every 10 % elsewhere."""

    def __init__(self, name: str, total: int, stream: IO[str] | None = None):
        self.name = name
        self.total = max(1, total)
        self.stream = stream or sys.stderr
        self.start = time.monotonic()
        self.first: int | None = None
        self._shown = 0.0
        self._tenth = -1

    def show(self, done: int, text: str = "") -> None:
        """Reports `done` of the total, with the time left, at most 5 times a second."""
        now = time.monotonic()
        if self.first is None:
            self.first, self.start = done, now
        terminal = self.stream.isatty()
        tenth = 10 * done // self.total
        due = now - self._shown > 0.2 if terminal else tenth != self._tenth
        if not due and done < self.total:
            return
        self._shown, self._tenth = now, tenth
        steps = done - self.first
        left = (now - self.start) / steps * (self.total - done) if steps else None
        eta = f"{format_seconds(left)} left" if left is not None else ""
        line = f"{self.name:<16} {done:>6}/{self.total} {text}  {eta}"
        if terminal:
            end = "\n" if done >= self.total else ""
            self.stream.write(f"\r\x1b[2K{line}{end}")
        else:
            self.stream.write(line.rstrip() + "\n")
        self.stream.flush()


def shown(name: str) -> Callable[[int, int], None]:
    """(done, total) -> a `Progress` that shows it."""

    @functools.cache
    def line(total: int) -> Progress:
        return Progress(name, total)

    return lambda done, total: line(total).show(done)


def format_seconds(seconds: float) -> str:
    """`75` -> "1m15s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"

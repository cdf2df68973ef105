"""Parts as processes with a time limit, their rows in one JSON file and in tables."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemojax.io import folders
from nemojax.reporting.tables import MISSING, Table

# Seconds of each part at most, the most valuable first.
LIMITS: dict[str, float] = {
    "ceilings": 40,
    "attention": 75,
    "layers": 150,
    "generation": 180,
    "torch_layers": 45,
    "torch_generation": 75,
    "dpo": 60,
    "torch_dpo": 60,
    "planner": 20,
    "miniature": 180,
}
# Where jax leaves the GPU to others.
_WITHOUT_JAX = ("torch_layers", "torch_generation", "torch_dpo", "planner")
_ROOT = Path(__file__).parents[2]
_POLL = 0.1


class Run:
    """A run: what there is of it is in its file after each row."""

    def __init__(self, file: Path, small: bool, measured: str | None = None):
        """Begins without rows.

        Args:
          file: the JSON file.
          small: whether sizes are those of a CPU.
          measured: file of an earlier run, which parts compare with; default: this one.
        """
        self._file, self._small = file, small
        self._earlier = folders.read_json(measured) if measured else {}
        self._folder = tempfile.TemporaryDirectory()
        self.found: dict[str, Any] = {**_header(), "small": small, "parts": {}}

    def part(self, name: str, limit: float) -> None:
        """Runs a part; whatever becomes of it, this returns."""
        folder = Path(self._folder.name)
        entry: dict[str, Any] = {"rows": []}
        self.found["parts"][name] = entry
        rows, measured = folder / f"{name}.jsonl", folder / "measured.json"
        rows.touch()
        folders.write_json(measured, self._measured())
        size = "small" if self._small else "full"
        start = time.monotonic()
        with _process(name, self._environment(name), rows, size, measured) as process:
            while process.poll() is None and time.monotonic() - start < limit:
                time.sleep(_POLL)
                self._read(name, rows)
            status = process.poll()
        self._read(name, rows)
        if status is None:
            entry["failed"] = f"out of time after {max(limit, 0):.0f} s"
        elif status:
            entry.setdefault("failed", f"its process ended with status {status}")
        entry["seconds"] = round(time.monotonic() - start, 1)
        folders.write_json(self._file, self.found)

    def _measured(self) -> dict[str, Any]:
        """Returns the device and the rows by part, those of this run before others."""
        parts = self._earlier.get("parts", {}) | self.found["parts"]
        return {
            "device": self._earlier.get("device") or self.found["device"],
            "rows": {name: entry["rows"] for name, entry in parts.items()},
        }

    def _environment(self, name: str) -> dict[str, str]:
        environment = {
            "JAX_COMPILATION_CACHE_DIR": str(Path(self._folder.name) / "compiled"),
            "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
            **os.environ,
        }
        if self._small:  # where nearly all of the time is compiling
            environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
        if name in _WITHOUT_JAX:
            environment["JAX_PLATFORMS"] = "cpu"
        return environment

    def _read(self, name: str, file: Path) -> None:
        """Takes over whole lines; writes the JSON file if there are new ones."""
        entry, rows = self.found["parts"][name], []
        for text in file.read_text().splitlines(keepends=True):
            if not text.endswith("\n"):
                break
            line = json.loads(text)
            if line.keys() == {"failed"}:
                entry["failed"] = line["failed"]
            elif line.keys() != {"device", "platform"}:
                rows.append(line)
            elif name not in _WITHOUT_JAX:
                self.found.update(line)
        if len(rows) > len(entry["rows"]):
            entry["rows"] = rows
            folders.write_json(self._file, self.found)

    def table(self, name: str) -> str:
        """Returns the rows of a part as a table, with the reason if it failed."""
        entry = self.found["parts"][name]
        keys = list(dict.fromkeys(key for row in entry["rows"] for key in row))
        cells = tuple(tuple(_cell(row.get(k)) for k in keys) for row in entry["rows"])
        lines = [f"\n{name}: {entry['seconds']} s"]
        if cells:
            lines.append(Table(tuple(keys), cells).to_text())
        if "failed" in entry:
            lines.append(f"failed: {entry['failed']}")
        return "\n".join(lines)


@contextlib.contextmanager
def _process(
    name: str, environment: dict[str, str], rows: Path, size: str, measured: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a part, and ends it with all processes that it started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu.worker", name, rows, size, measured],
        cwd=_ROOT,
        env=environment,
        stdout=sys.stderr,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _header() -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": None,
        "platform": None,
        "versions": {name: _version(name) for name in ("jax", "jaxlib", "torch")},
        "commit": _commit(),
        "command": shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]]),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Returns the commit of the checkout; None where git does not know."""
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout.strip() or None
    return None


def _cell(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)

"""A part at work in its own process: it measures cases and writes rows."""

import gc
import json
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def reason(error: BaseException) -> str:
    """Returns one line that says what went wrong."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300].removesuffix(": ")


class Job:
    """What a part was asked for, and where its rows go.

    Attributes:
      small: whether sizes are those that a CPU runs in seconds.
      measured: rows of the parts before this one, by part.
      device: name of the device that they were measured on; None: not known.
    """

    def __init__(self, file: Path, small: bool, measured: Mapping[str, Any]):
        self._file, self.small = file, small
        self.measured: Mapping[str, list[Any]] = measured["rows"]
        self.device: str | None = measured["device"]

    def row(self, row: Mapping[str, Any]) -> None:
        """Writes a row, which stays whatever happens to the process."""
        with self._file.open("a") as stream:
            stream.write(json.dumps(row) + "\n")

    def measure(
        self, labels: Mapping[str, Any], call: Callable[[], Mapping[str, Any]]
    ) -> None:
        """Writes the row of a case; one that fails costs the others nothing."""
        try:
            row = {**labels, **call()}
        except Exception as error:
            traceback.print_exc()
            row = {**labels, "failed": reason(error)}
        self.row(row)
        gc.collect()  # the traceback held arrays

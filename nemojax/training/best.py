"""The trained parameters that did best on held-out examples."""

import json
import shutil
from pathlib import Path
from typing import Any

from nemojax.io import folders
from nemojax.parallel import processes
from nemojax.training import checkpoints

_RECORD = "best.json"


class Best:
    """The trained parameters with the lowest held-out loss, kept on the disk.

    A run that goes on from an older checkpoint measures again what it had measured:
    only less than the lowest so far is kept, so the same ones come out. Several
    processes keep them together; the first one holds the record.
    """

    def __init__(self, directory: Path):
        """Tracks the best parameters of the run in `directory`."""
        self._directory = directory

    def offer(self, loss: float, params: Any) -> None:
        """Keeps the parameters where the loss is the lowest so far."""
        record = self._record()
        if record is not None and not loss < record["loss"]:
            return
        number = 0 if record is None else record["number"] + 1
        checkpoints.save_params(self._folder(number), params)
        processes.broadcast_from_process_0(lambda: self._replace(loss, number))

    def params(self, like: Any) -> Any:
        """Returns the kept parameters, placed as `like`, or `like` if none are kept."""
        record = self._record()
        if record is None:
            return like
        return checkpoints.load_params(self._folder(record["number"]), like)

    def _replace(self, loss: float, number: int) -> None:
        path = self._directory / _RECORD
        folders.write_json(path, {"loss": loss, "number": number})
        shutil.rmtree(self._folder(number - 1), ignore_errors=True)

    def _folder(self, number: int) -> Path:
        return self._directory / f"best-{number}"

    def _record(self) -> dict[str, Any] | None:
        path = self._directory / _RECORD
        return processes.broadcast_from_process_0(
            lambda: json.loads(path.read_text()) if path.exists() else None
        )

"""The trained parameters that did best on held-out examples."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemojax.errors import UserError
from nemojax.io import sealed
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

    def params(self, like: Any, measured: Sequence[float]) -> Any:
        """Returns the kept parameters, placed as `like`, or `like` if none are kept.

        Args:
          like: a parameter tree.
          measured: held-out losses of the run, in the first process.

        Raises:
          UserError: what is kept is damaged, or had a higher loss than another.
        """
        record = processes.broadcast_from_process_0(lambda: self._checked(measured))
        if record is None:
            return like
        return checkpoints.load_params(self._folder(record["number"]), like)

    def _checked(self, measured: Sequence[float]) -> dict[str, Any] | None:
        record = self._read()
        kept = math.inf if record is None else record["loss"]
        if any(loss < kept for loss in measured):
            raise UserError(
                f"{self._directory / _RECORD}: the parameters with the lowest held-out "
                f"loss, {min(measured):.4f}, were lost: remove {self._directory} and "
                "run the same command again"
            )
        return record

    def _replace(self, loss: float, number: int) -> None:
        path = self._directory / _RECORD
        sealed.write(path, {"loss": loss, "number": number})
        shutil.rmtree(self._folder(number - 1), ignore_errors=True)

    def _folder(self, number: int) -> Path:
        return self._directory / f"best-{number}"

    def _record(self) -> dict[str, Any] | None:
        return processes.broadcast_from_process_0(self._read)

    def _read(self) -> dict[str, Any] | None:
        path = self._directory / _RECORD
        return sealed.read(path) if path.exists() else None

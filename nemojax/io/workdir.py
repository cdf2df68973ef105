"""A run's folder: its configuration, its lock, and stages that finish once.

A stage writes into `<name>.partial` and is renamed to `<name>` when it is done, so a
folder without that ending is a finished stage whatever killed the process. Run again,
the same configuration continues at the first unfinished stage; another one is refused.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from nemojax.errors import UserError
from nemojax.io import folders, sealed

RESULT = "result.json"
CONFIGURATION = "configuration.json"
LOCK, _SECONDS = ".lock", ".seconds"
_TOLD, _WIDTH = 4, 80  # settings that a message names, characters of a value


class WorkdirError(UserError):
    """A work folder that cannot be used; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class StageOutput:
    """A finished stage.

    Attributes:
      name: the stage.
      directory: folder of the stage's files.
      result: result of the stage, as JSON gives it back.
      seconds: wall-clock time it took, over all attempts that left their time.
    """

    name: str
    directory: Path
    result: dict[str, Any]
    seconds: float


class Workdir:
    """The folder of one run: the first process holds it, all do its work.

    Attributes:
      path: absolute; the same folder on every host.
      configuration: configuration as JSON gives it back.
    """

    def __init__(
        self, path: str | Path, configuration: dict[str, Any], flag: str = "--workdir"
    ):
        """Opens or creates the folder, which is locked until `close`.

        Args:
          path: path of the folder.
          configuration: everything that decides the results, as JSON.
          flag: flag by which users name the folder, for messages.

        Raises:
          WorkdirError: the folder holds a run of another configuration or something
            else, or another run is using it. Nothing is changed then.
          FirstProcessError: in the other processes, where the first has an error.
        """
        self.path = Path(path).absolute()
        self._flag = flag
        self.configuration = json.loads(json.dumps(configuration))
        self._lock: IO[str] | None = None
        _from_process_0(self._open)

    def _open(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise WorkdirError(f"{self.path} is a file: give {self._flag} a folder")
        self._check_configuration()
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = self._take_lock()
        stored = self.path / CONFIGURATION
        if not stored.exists():
            sealed.write(stored, self.configuration)

    def _check_configuration(self) -> None:
        stored = self.path / CONFIGURATION
        if not stored.exists():
            # What a process that was killed while it made the folder leaves behind.
            ours = {LOCK, CONFIGURATION + folders.PARTIAL}
            if self.path.exists() and {p.name for p in self.path.iterdir()} - ours:
                raise WorkdirError(
                    f"{self.path} is not empty and holds no run: choose another "
                    f"{self._flag}"
                )
            return
        there, now = _flat(sealed.read(stored)), _flat(self.configuration)
        changed = [key for key in there | now if there.get(key) != now.get(key)]
        if changed:
            # What many stages have from one setting is told by the setting.
            changed.sort(key=lambda key: (key.count("."), key))
            told = [
                f"{key}: {_told(there, key)} -> {_told(now, key)}"
                for key in changed[:_TOLD]
            ]
            more = len(changed) - _TOLD
            told += [f"and {more} more"] if more > 0 else []
            raise WorkdirError(
                f"{self.path} holds a run with another configuration "
                f"({'; '.join(told)}): choose another {self._flag}, or remove it"
            )

    def _take_lock(self) -> IO[str]:
        lock = (self.path / LOCK).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise WorkdirError(
                f"{self.path} is in use by another process: wait for it, or choose "
                f"another {self._flag}"
            ) from None
        return lock

    def stage(self, name: str, run: Callable[[Path], dict[str, Any]]) -> StageOutput:
        """Runs a stage in all processes, or reads what it left if it is finished.

        Args:
          name: a file name; stages of a run have different names.
          run: gets the folder to write to and returns a JSON object, of which that of
            the first process counts. It may find there what an interrupted attempt
            left.
        """
        finished = self.path / name
        partial = self.path / f"{name}{folders.PARTIAL}"
        if not _from_process_0(finished.exists):
            before = _from_process_0(lambda: _begin(partial))
            start = time.monotonic()
            try:
                result = run(partial)
            finally:
                seconds = round(before + time.monotonic() - start, 2)
                if self._lock is not None:
                    (partial / _SECONDS).write_text(f"{seconds}\n")
            stored = {"result": result, "seconds": seconds}
            _from_process_0(lambda: _finish(partial, finished, stored))
        stored = _from_process_0(lambda: sealed.read(finished / RESULT))
        return StageOutput(name, finished, stored["result"], stored["seconds"])

    def close(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            self._lock.close()


def _from_process_0(make: Callable[[], Any]) -> Any:
    """Calls `make` in process 0; imports here, for commands start without jax."""
    from nemojax.parallel import processes

    return processes.broadcast_from_process_0(make)


def _begin(partial: Path) -> float:
    """Makes the folder of a stage; returns the seconds of earlier attempts."""
    partial.mkdir(exist_ok=True)
    try:
        return float((partial / _SECONDS).read_text())
    except (OSError, ValueError):
        return 0.0


def _finish(partial: Path, finished: Path, stored: dict[str, Any]) -> None:
    sealed.write(partial / RESULT, stored)
    (partial / _SECONDS).unlink()
    os.rename(partial, finished)


def _flat(fields: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Flattens nested objects and lists to dotted names: messages name one value."""
    found = {}
    for key, value in fields.items():
        if value and isinstance(value, list):
            value = {str(place): item for place, item in enumerate(value)}
        nested = value and isinstance(value, dict)
        found |= _flat(value, f"{before}{key}.") if nested else {before + key: value}
    return found


def _told(fields: dict[str, Any], key: str) -> str:
    text = repr(fields[key]) if key in fields else "nothing"
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}..."


@contextlib.contextmanager
def in_stage(name: str) -> Iterator[None]:
    """Marks what goes wrong inside with the stage's name, for commands to tell."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"in stage {name}")
        raise


def require_space(path: Path, num_bytes: int) -> None:
    """Raises WorkdirError where the disk of a folder has less space left.

    For work that would find out only when it is done.
    """
    free = shutil.disk_usage(path).free
    if free < num_bytes:
        raise WorkdirError(
            f"{path}: {num_bytes / 1e6:,.1f} MB are needed, the disk has "
            f"{free / 1e6:,.1f} MB left: free some, then run the same command again "
            "to continue"
        )

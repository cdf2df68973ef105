"""An append-only JSONL file of synthetic rows that survives being killed.

Every row carries the hash of what it holds, so a resumed run knows what exists, and a
damaged line is known as damaged. A row is in the journal once `append` has returned.
Nothing is dropped silently: a line that was half-written when the process died is cut
off and reported, and any other unreadable line is listed in a file of rejects beside
the journal with its file, number and reason, and counted.
"""

import fcntl
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from nemojax.io import folders, json_text, quarantine
from nemojax.io.quarantine import BadRow, Quarantine


@dataclass(frozen=True)
class JournalRow:
    """One artefact of data generation, with where it came from.

    Attributes:
      stage: the stage that made it, with its version, as in "dialogues/1".
      content: the artefact, a JSON object.
      parents: ids of the rows that it was made from.
      model: the generator's name.
      sampling: temperature, seed, index of the sample and so on, a JSON object.
      created: a time stamp for people; no part of the id.
    """

    stage: str
    content: Mapping[str, Any]
    parents: tuple[str, ...] = ()
    model: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""

    @property
    def id(self) -> str:
        """SHA-256 of the canonical JSON of everything but `created`.

        Raises:
          ValueError: a value that is not JSON, such as NaN or a set.
        """
        identity = {k: v for k, v in vars(self).items() if k != "created"}
        return hashlib.sha256(_canonical(identity).encode()).hexdigest()


@dataclass(frozen=True)
class Recovery:
    """Facts found when a journal was opened.

    Attributes:
      rows: rows that were read.
      torn_bytes: length of the half-written last line that was cut off.
      quarantined: the unreadable lines before it.
    """

    rows: int
    torn_bytes: int
    quarantined: tuple[BadRow, ...]


class Journal:
    """An open journal: append, ask what is in it, iterate over it.

    One process writes at a time; the file is locked while it is open. Rows stay on
    disk, only their ids are kept in memory.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Opens or creates the journal at `path` and recovers what is there.

        Raises:
          ValueError: another process has the journal open.
        """
        self.path = pathlib.Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise ValueError(f"journal {self.path} is open elsewhere") from error
        self._ids: set[str] = set()
        self._faulty: set[int] = set()
        self.recovery = self._recover()
        if is_new:
            folders.sync(self.path.parent)

    def append(self, rows: Iterable[JournalRow]) -> list[str]:
        """Writes `rows`, waits until they are on disk, and returns their ids.

        All or none: a batch that cannot be written whole is taken back.

        Raises:
          ValueError: a row that is in the journal already, or twice in `rows`.
          OSError: the disk refused the batch.
        """
        lines: dict[str, str] = {}
        for row in rows:
            row_id = row.id
            if row_id in self._ids or row_id in lines:
                raise ValueError(f"row {row_id} is in {self.path} already")
            lines[row_id] = _canonical({"id": row_id, **vars(row)}) + "\n"
        size = os.fstat(self._file).st_size
        try:
            _write_all(self._file, "".join(lines.values()).encode())
            os.fsync(self._file)
        except BaseException:
            os.ftruncate(self._file, size)
            raise
        self._ids.update(lines)
        return list(lines)

    def __contains__(self, row_id: str) -> bool:
        return row_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[JournalRow]:
        """Yields the rows in the order of writing, without unreadable lines."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number not in self._faulty:
                    yield _parse(line)[1]

    def close(self) -> None:
        """Releases the file. Closing twice is allowed."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _recover(self) -> Recovery:
        """Reads every line; cuts off a torn last one, quarantines other bad ones."""
        faults = Quarantine()
        line = b"\n"
        end = torn = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row_id, _ = _parse(line)
                    if row_id in self._ids:
                        raise ValueError(f"row {row_id} is there twice")
                except ValueError as error:
                    if not line.endswith(b"\n"):
                        torn = len(line)
                        break
                    text = json_text.raw_text(line)
                    faults.add(BadRow(str(self.path), number, "", str(error), text))
                    self._faulty.add(number)
                else:
                    self._ids.add(row_id)
                end += len(line)
        if torn:
            os.ftruncate(self._file, end)
        elif not line.endswith(b"\n"):
            # The row is whole by its hash; only its line end was lost.
            _write_all(self._file, b"\n")
        os.fsync(self._file)
        faults.write(quarantine.beside(self.path))
        return Recovery(len(self._ids), torn, tuple(faults.rows))


def _canonical(value: Any) -> str:
    """Writes JSON with one spelling for one value.

    Raises:
      ValueError: a value that is not JSON.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except TypeError as error:
        raise ValueError(f"row holds a value that is not JSON: {error}") from error


def _parse(line: bytes) -> tuple[str, JournalRow]:
    """Parses id and row of a line; a ValueError says what is wrong with it."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"not an object but {type(value).__name__}")
    row_id = value.pop("id", None)
    try:
        row = JournalRow(**{**value, "parents": tuple(value.get("parents", ()))})
        found = row.id
    except TypeError as error:
        raise ValueError(f"not a row: {error}") from error
    if found != row_id:
        raise ValueError(f"id {row_id!r} does not belong to this content, {found} does")
    return found, row


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]

"""Rows, bad rows, and the quarantine that counts and lists the bad ones."""

import collections
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nemojax.errors import UserError
from nemojax.io import folders, json_text

REJECTS = "rejects.jsonl"  # of a folder; of a file NAME.x it is NAME.rejects.jsonl
_HELD_BYTES = 2**20

# Reasons for which a sound row still gives no record. They are counted and written
# like the others but do not make a file suspect.
TOO_LONG = "longer than the limit"
BELOW_THRESHOLD = "chosen response below the reward threshold"
NOT_SCORED = "not among the scores"
SKIP_REASONS = frozenset(
    {"tie", "tool calls", "no label", TOO_LONG, BELOW_THRESHOLD, NOT_SCORED}
)

PathLike = str | os.PathLike[str]


class DataError(UserError):
    """Data that cannot be used; the message names it and says what to do."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One JSON object. `row` counts from 1: the line, or the place in the list."""

    value: dict[str, Any]
    file: str
    row: int

    def reject(self, field: str, reason: str) -> "BadRow":
        """Returns the row as a bad one, for checks made after reading."""
        excerpt = json_text.raw_value(self.value)
        return BadRow(self.file, self.row, field, reason, excerpt)


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that gives no record.

    Attributes:
      file: the file as it was named by the caller.
      row: number of the row from 1; 0 stands for the file as a whole.
      field: the field at fault, or "" where the whole row is.
      reason: a short phrase, the same for all rows with the same fault.
      excerpt: the beginning of the row's text.
    """

    file: str
    row: int
    field: str
    reason: str
    excerpt: str = ""

    @property
    def malformed(self) -> bool:
        """True where the row is broken, rather than sound and of no use here."""
        return self.reason not in SKIP_REASONS

    def __str__(self) -> str:
        field = f", field {self.field!r}" if self.field else ""
        return f"{self.file}, row {self.row}{field}: {self.reason}"


def checked(value: Any, file: str, row: int, has_escapes: bool = True) -> Row | BadRow:
    """Returns a row, or a bad one where `json_text.check_object` refuses it."""
    try:
        return Row(json_text.check_object(value, has_escapes), file, row)
    except json_text.Malformed as error:
        excerpt = json_text.raw_value(value)
        return BadRow(file, row, error.field, error.reason, excerpt)


def checked_cells(value: dict[str, Any], file: str, row: int) -> Row | BadRow:
    """Returns `checked` of a table's row, in which what is not UTF-8 is a surrogate."""
    found = checked(value, file, row)
    if isinstance(found, BadRow) and found.reason == json_text.SURROGATE:
        return dataclasses.replace(found, reason=json_text.NOT_UTF8)
    return found


class Quarantine:
    """Bad rows, counted by reason and listed in one file.

    The list is held in memory while it is short and on the disk when it is not.
    """

    def __init__(self) -> None:
        self._reasons: collections.Counter[str] = collections.Counter()
        self._first_malformed = ""
        self._lines = tempfile.SpooledTemporaryFile(_HELD_BYTES)  # noqa: SIM115

    def add(self, bad: BadRow) -> None:
        """Counts and lists one bad row."""
        self._count({bad.reason: 1}, str(bad) if bad.malformed else "")
        self._lines.write(json_text.line(dataclasses.asdict(bad)))

    def keep(self, rows: Iterable[Row | BadRow]) -> Iterator[Row]:
        """Passes the good rows on and adds the bad ones."""
        for row in rows:
            if isinstance(row, Row):
                yield row
            else:
                self.add(row)

    @property
    def rows(self) -> list[BadRow]:
        """Reads back the rows that were put in quarantine, in the order they came."""
        self._lines.seek(0)
        return [BadRow(**json.loads(line)) for line in self._lines]

    @property
    def counts(self) -> dict[str, int]:
        """Rows per reason, the most frequent first."""
        return dict(self._reasons.most_common())

    @property
    def total(self) -> int:
        """Number of rows."""
        return self._reasons.total()

    @property
    def facts(self) -> dict[str, Any]:
        """Counts as JSON, for `include`."""
        return {"reasons": self.counts, "first_malformed": self._first_malformed}

    def include(self, facts: Mapping[str, Any]) -> None:
        """Counts the rows that another quarantine has written, given its `facts`."""
        self._count(facts["reasons"], facts["first_malformed"])

    def extend(self, other: "Quarantine") -> None:
        """Counts and lists the rows of another quarantine."""
        self.include(other.facts)
        other._lines.seek(0)
        shutil.copyfileobj(other._lines, self._lines)

    def _count(self, reasons: Mapping[str, int], first_malformed: str) -> None:
        self._reasons.update(reasons)
        self._first_malformed = self._first_malformed or first_malformed

    def write(self, path: PathLike) -> pathlib.Path | None:
        """Writes one JSON object a row: file, row, field, reason, excerpt.

        Args:
          path: the file, which is whole when it appears; removed where there are no
            rows.

        Returns:
          The file, or None without rows.
        """
        path = pathlib.Path(path)
        if not self._lines.tell():
            path.unlink(missing_ok=True)
            return None
        self._lines.seek(0)
        with folders.replacing(path) as stream:
            shutil.copyfileobj(self._lines, stream)
        return path

    def check(
        self, total: int, max_share: float = 0.05, where: PathLike | None = None
    ) -> None:
        """Raises DataError where too large a share of the rows is malformed.

        Args:
          total: number of rows read, good and bad.
          max_share: the largest tolerated share of malformed rows, 0 to 1. Rows that
            are sound but give no record (`SKIP_REASONS`) are not malformed.
          where: the file that lists them, for the message of a command.
        """
        malformed = {
            why: n for why, n in self.counts.items() if why not in SKIP_REASONS
        }
        count = sum(malformed.values())
        if count <= max_share * total:
            return
        listed = ", ".join(f"{why} ({n})" for why, n in [*malformed.items()][:5])
        raise DataError(
            f"{count} of {total} rows are malformed, more than {max_share:.1%}: "
            f"{listed}; the first is {self._first_malformed}. "
            + (f"They are in {where}. " if where else "")
            + "Mend or remove these rows, or allow a larger share"
            + (" with --max_bad_fraction." if where else ".")
        )


def beside(out: PathLike) -> pathlib.Path:
    """Returns the path of an output's list of bad rows: its suffix is replaced."""
    return pathlib.Path(out).with_suffix(f".{REJECTS}")

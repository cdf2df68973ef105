"""Rows, bad rows, and the quarantine that counts and keeps the bad ones."""

import collections
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from nemojax.errors import UserError
from nemojax.io import json_text

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
        """The same row as a bad one, for checks made after reading."""
        raw = json_text.raw_value(self.value)
        return BadRow(self.file, self.row, field, reason, raw)


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that gives no record.

    Attributes:
      file: the file as it was named by the caller.
      row: counts from 1; 0 stands for the file as a whole.
      field: the field at fault, or "" where the whole row is.
      reason: a short phrase, the same for all rows with the same fault.
      raw: the beginning of the row's text.
    """

    file: str
    row: int
    field: str
    reason: str
    raw: str = ""

    @property
    def malformed(self) -> bool:
        """Whether the row is broken, rather than sound and of no use here."""
        return self.reason not in SKIP_REASONS

    def __str__(self) -> str:
        field = f", field {self.field!r}" if self.field else ""
        return f"{self.file}, row {self.row}{field}: {self.reason}"


class Quarantine:
    """Collects bad rows: counted by reason, written to a file, stopped on excess."""

    def __init__(self) -> None:
        self.rows: list[BadRow] = []

    def add(self, bad: BadRow) -> None:
        """Keeps one bad row."""
        self.rows.append(bad)

    def keep(self, rows: Iterable[Row | BadRow]) -> Iterator[Row]:
        """Passes the good rows on and keeps the bad ones."""
        for row in rows:
            if isinstance(row, Row):
                yield row
            else:
                self.add(row)

    @property
    def counts(self) -> dict[str, int]:
        """Rows per reason, the most frequent first."""
        return dict(collections.Counter(bad.reason for bad in self.rows).most_common())

    def write(self, path: PathLike) -> None:
        """Writes one JSON object a bad row: file, row, field, reason, raw."""
        with open(path, "w", encoding="utf-8") as stream:
            for bad in self.rows:
                row = json.dumps(dataclasses.asdict(bad), ensure_ascii=False)
                stream.write(row + "\n")

    def check(self, total: int, max_share: float = 0.05) -> None:
        """Raises DataError where too large a share of the rows is malformed.

        Args:
          total: number of rows read, good and bad.
          max_share: the largest tolerated share of malformed rows, 0 to 1. Rows that
            are sound but give no record (`SKIP_REASONS`) are not malformed.
        """
        malformed = [bad for bad in self.rows if bad.malformed]
        if len(malformed) <= max_share * total:
            return
        reasons = collections.Counter(bad.reason for bad in malformed).most_common(5)
        listed = ", ".join(f"{reason} ({count})" for reason, count in reasons)
        raise DataError(
            f"{len(malformed)} of {total} rows are malformed, more than "
            f"{max_share:.1%}: {listed}; the first is {malformed[0]}. "
            "Mend or remove these rows, or allow a larger share."
        )

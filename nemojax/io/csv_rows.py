"""Rows of csv files: the first row names the fields, all others are text.

Cells may be quoted, and then hold commas, doubled quotes and line ends. A byte order
mark at the start, as spreadsheets write it, is passed over.
"""

import csv
import dataclasses
from collections.abc import Iterator

from nemojax.io import json_text, quarantine
from nemojax.io.fields import Cell
from nemojax.io.quarantine import BadRow, DataError, Row

# The cap of the csv module on a cell. It also ends a cell whose closing quote is
# missing, which would swallow the rest of the file.
_TOO_LONG = "field larger than field limit"


def read(
    lines: Iterator[tuple[int, bytes | BadRow]], file: str, after: int
) -> Iterator[Row | BadRow]:
    """Yields the rows, streamed; the first after the names is number 1.

    Empty lines between the rows are no rows.

    Args:
      lines: lines of the file with their numbers, those that cannot be used as bad
        rows.
      file: name of the file, for messages.
      after: rows up to this number are passed over.

    Raises:
      DataError: the first row does not name the fields.
    """
    reader = csv.reader(_Lines(lines), strict=True)
    names: list[str] = []
    number = 0
    while True:
        try:
            cells = next(reader)
            if not cells:
                continue
            if not names:
                names = _names(cells)
                continue
            row = _row(names, cells, file, number + 1)
        except StopIteration:
            return
        except csv.Error as error:
            if not names:
                raise DataError(
                    f"{file}: its first row does not name the fields "
                    f"({_reason(error)}); mend it, or turn it into a .jsonl file."
                ) from error
            row = BadRow(file, number + 1, "", _reason(error))
        number += 1
        if number > after:
            yield row


class _Unusable(csv.Error):
    """A line or a row of names that cannot be used; the message says why."""


class _Lines:
    """Lines as text; a byte that is not UTF-8 is a lone surrogate.

    Unlike a generator it goes on after an error.
    """

    def __init__(self, lines: Iterator[tuple[int, bytes | BadRow]]):
        self._lines = lines

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        _, line = next(self._lines)
        if isinstance(line, BadRow):
            raise _Unusable(line.reason)
        return line.decode("utf-8", "surrogateescape")


def _names(cells: list[str]) -> list[str]:
    names = [cells[0].removeprefix("\ufeff"), *cells[1:]]
    try:
        json_text.check_object(dict.fromkeys(names), True)
    except json_text.Malformed as error:
        raise _Unusable(_not_utf8(error.reason)) from error
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise _Unusable(f"{min(repeated)!r} comes twice")
    return names


def _row(names: list[str], cells: list[str], file: str, number: int) -> Row | BadRow:
    if len(cells) != len(names):
        excerpt = json_text.raw_value(cells)
        return BadRow(file, number, "", "wrong number of cells", excerpt)
    value = dict(zip(names, map(Cell, cells), strict=True))
    row = quarantine.checked(value, file, number)
    if isinstance(row, BadRow):
        row = dataclasses.replace(row, reason=_not_utf8(row.reason))
    return row


def _not_utf8(reason: str) -> str:
    """Names the fault of a text: CSV has no escapes, so a surrogate was a bad byte."""
    return "not UTF-8" if reason == "lone surrogate" else reason


def _reason(error: csv.Error) -> str:
    if isinstance(error, _Unusable):
        return str(error)
    return "cell too long" if _TOO_LONG in str(error) else "not CSV"

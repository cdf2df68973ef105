"""Rows of csv files: the first row names the fields, all others are text.

Cells may be quoted, and then hold commas, doubled quotes and line ends. Where a row is
no csv, its first line alone is a bad row, and reading goes on with the next line: so a
quote that is not closed takes no other row with it.
"""

import collections
import csv
from collections.abc import Iterator

from nemojax.io import json_text, quarantine
from nemojax.io.fields import Cell
from nemojax.io.quarantine import BadRow, DataError, Row

# The cap of the csv module on a cell. It also ends a cell whose closing quote is
# missing, which would swallow the rest of the file.
_TOO_LONG = "field larger than field limit"
_MAX_LINES = 2**17  # of a row
_MAX_AGAIN = 10**7  # lines that are read again, of a file


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
      DataError: the first row does not name the fields, or so many quotes are not
        closed that it would take long to find the rows between them.
    """
    source = _Lines(lines)
    reader = csv.reader(source, strict=True)
    names: list[str] = []
    number = 0
    while True:
        source.begin_row()
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
                    f"({source.reason(error)}); mend it, or turn it into a .jsonl file."
                ) from error
            row = BadRow(file, number + 1, "", source.reason(error), source.first)
            source.go_back(file)
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
        self._again: collections.deque[bytes | BadRow] = collections.deque()
        self._row: list[bytes | BadRow] = []  # lines of the row under way
        self._left = _MAX_AGAIN

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)[1]
        self._row.append(line)
        if isinstance(line, BadRow):
            raise _Unusable(line.reason)
        if len(self._row) > _MAX_LINES:
            raise _Unusable("too many lines")
        return line.decode("utf-8", "surrogateescape")

    def begin_row(self) -> None:
        self._row.clear()

    def go_back(self, file: str) -> None:
        """Goes back to the second line of the row."""
        self._left -= len(self._row) - 1
        if self._left < 0:
            raise DataError(f"{file}: too many quotes that are not closed; mend them.")
        self._again.extendleft(reversed(self._row[1:]))

    @property
    def first(self) -> str:
        """Excerpt of the first line of the row."""
        line = self._row[0]
        return line.excerpt if isinstance(line, BadRow) else json_text.raw_text(line)

    def reason(self, error: csv.Error) -> str:
        """Names the fault of the row."""
        if len(self._row) > 1:
            return "a quote that is not closed, or comes where none can"
        if isinstance(error, _Unusable):
            return str(error)
        return "cell too long" if _TOO_LONG in str(error) else "not CSV"


def _names(cells: list[str]) -> list[str]:
    found = quarantine.checked_cells(dict.fromkeys(cells), "", 0)
    if isinstance(found, BadRow):
        raise _Unusable(found.reason)
    repeated = {name for name in cells if cells.count(name) > 1}
    if repeated:
        raise _Unusable(f"{min(repeated)!r} comes twice")
    return cells


def _row(names: list[str], cells: list[str], file: str, number: int) -> Row | BadRow:
    if len(cells) != len(names):
        excerpt = json_text.raw_value(cells)
        return BadRow(file, number, "", "wrong number of cells", excerpt)
    value = dict(zip(names, map(Cell, cells), strict=True))
    return quarantine.checked_cells(value, file, number)

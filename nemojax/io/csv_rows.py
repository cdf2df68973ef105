"""Rows of csv files: the first row names the fields, all others are text.

Cells may be quoted, and then hold commas, doubled quotes and line ends. A byte order
mark at the start, as spreadsheets write it, is passed over.
"""

import csv
import io
from collections.abc import Iterator

from nemojax.io import json_text
from nemojax.io.fields import Cell
from nemojax.io.quarantine import BadRow, DataError, Row

# The cap of the csv module on a cell. It also ends a cell whose closing quote is
# missing, which would swallow the rest of the file.
_TOO_LONG = "field larger than field limit"


def read(
    stream: io.BufferedIOBase, file: str, after: int, max_line_bytes: int, packing: str
) -> Iterator[Row | BadRow]:
    """The rows of a csv file, streamed; the first after the names is number 1.

    Empty lines between the rows are no rows.

    Args:
      stream: the bytes.
      file: its name, for messages.
      after: rows up to this number are passed over.
      max_line_bytes: longer lines are bad rows.
      packing: how the file is compressed, for messages.

    Raises:
      DataError: the first row does not name the fields.
    """
    reader = csv.reader(_Lines(stream, max_line_bytes), strict=True)
    names = _names(reader, file, packing)
    if names is None:
        return
    number, ended = 0, False
    while not ended:
        number += 1
        cells: list[str] = []
        try:
            while not cells:
                cells = next(reader)
            row = _row(names, cells, file, number)
        except StopIteration:
            return
        except EOFError:
            row = BadRow(file, number, "", f"truncated {packing} file")
            ended = True
        except csv.Error as error:
            row = BadRow(file, number, "", _reason(error))
        if number > after:
            yield row


class _LongLine(csv.Error):
    """A line that is too long to be held."""


class _Lines:
    """The lines of a file as text; a byte that is not UTF-8 is a lone surrogate.

    Unlike a generator it goes on after an error.
    """

    def __init__(self, stream: io.BufferedIOBase, max_bytes: int):
        self._stream, self._max_bytes = stream, max_bytes

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._stream.readline(self._max_bytes + 1)
        if not line:
            raise StopIteration
        if len(line) > self._max_bytes and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = self._stream.readline(self._max_bytes)
            raise _LongLine("line longer than 10 MB")
        return line.decode("utf-8", "surrogateescape")


def _names(reader: Iterator[list[str]], file: str, packing: str) -> list[str] | None:
    """The names of the fields; None where the file is empty."""
    names: list[str] = []
    try:
        while not names:
            names = next(reader)
        names[0] = names[0].removeprefix("\ufeff")
        json_text.check_object(dict.fromkeys(names), True)
    except StopIteration:
        return None
    except EOFError as error:
        raise DataError(f"{file}: truncated {packing} file; fetch it again.") from error
    except csv.Error as error:
        raise _unnamed(file, _reason(error)) from error
    except json_text.Malformed as error:
        raise _unnamed(file, _not_utf8(error.reason)) from error
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise _unnamed(file, f"{min(repeated)!r} comes twice")
    return names


def _unnamed(file: str, problem: str) -> DataError:
    return DataError(
        f"{file}: its first row does not name the fields ({problem}); mend it, or turn "
        "it into a .jsonl file."
    )


def _row(names: list[str], cells: list[str], file: str, number: int) -> Row | BadRow:
    if len(cells) != len(names):
        raw = json_text.raw_value(cells)
        return BadRow(file, number, "", "wrong number of cells", raw)
    value = dict(zip(names, map(Cell, cells), strict=True))
    try:
        return Row(json_text.check_object(value, True), file, number)
    except json_text.Malformed as error:
        raw = json_text.raw_value(cells)
        return BadRow(file, number, error.field, _not_utf8(error.reason), raw)


def _not_utf8(reason: str) -> str:
    """Csv has no escapes, so a lone surrogate was a byte that is not UTF-8."""
    return "not UTF-8" if reason == "lone surrogate" else reason


def _reason(error: csv.Error) -> str:
    if isinstance(error, _LongLine):
        return str(error)
    return "cell too long" if _TOO_LONG in str(error) else "not CSV"

"""Records from rows of the layouts in which people already have their data.

The format of a file is told by the fields of its first good row, see `FORMATS`, and
all its rows are read in this format.
A row that gives none goes to the quarantine with its file, row, field and reason, so
that `rows` is always `len(records) + bad`. Placeholders such as `{{name}}` are left
as text.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from nemojax.data.records import AnyRecord, Provenance
from nemojax.data.rows import (
    attribute_formats,
    conversation_formats,
    preference_formats,
)
from nemojax.data.rows.row_format import Format
from nemojax.io import fields, files

Record = TypeVar("Record")

# Kinds of records and their formats. A row belongs to the first format that
# recognises it; conversations come last, for their formats ask for the fewest fields.
FORMATS: dict[str, tuple[Format, ...]] = {
    "preference pairs": preference_formats.FORMATS,
    "attribute labels": attribute_formats.FORMATS,
    "conversations": conversation_formats.FORMATS,
}

_KINDS = {entry.name: kind for kind, entries in FORMATS.items() for entry in entries}
_FORMATS = {entry.name: entry for entries in FORMATS.values() for entry in entries}

# Fields that name a row; the first that holds a text or a whole number counts.
ID_FIELDS = ("id", "uuid", "prompt_id")

# How many rows at the start of a file may be broken before its format is given up.
_ROWS_TO_DETECT = 100


@dataclasses.dataclass(frozen=True)
class ReadResult(Generic[Record]):
    """Result of a reader.

    Attributes:
      records: records in the order of the files and their rows.
      detected: name of the format of each file; None where no row was readable.
      rows: number of rows met.
      bad: rows that gave no record; all are in the quarantine.
    """

    records: list[Record]
    detected: dict[str, str | None]
    rows: int
    bad: int


def detect(row: dict[str, Any]) -> str | None:
    """Returns the name of the format of a row, None if it is in none we know."""
    return next((name for name, f in _FORMATS.items() if f.recognises(row)), None)


def kind_of(name: str) -> str:
    """Returns the kind of records, a key of `FORMATS`, that a format gives."""
    return _KINDS[name]


@dataclasses.dataclass(frozen=True)
class RecordFile:
    """An open data file.

    Attributes:
      format: name of its format; None where no row at its start is readable.
      rows: good rows with their records, and bad rows; none is held or lost.
    """

    format: str | None
    rows: Iterator[tuple[files.Row, AnyRecord] | files.BadRow]


def open_file(
    path: files.PathLike, after: int = 0, format_name: str | None = None
) -> RecordFile:
    """Opens a file of any kind of records, which is read a row at a time.

    Args:
      path: path of the file.
      after: rows up to this number are passed over.
      format_name: name of the file's format, where it is known; otherwise the first row
        that is in any format tells it.

    Raises:
      files.DataError: the file is unreadable, or in no format that we know.
    """
    if format_name is None and after:
        format_name = open_file(path).format
    incoming, head = files.read_rows(path, after), []
    if format_name is None:
        head = list(itertools.islice(incoming, _ROWS_TO_DETECT))
        format_name = _detected(head, path)
    file_format = _FORMATS.get(format_name or "")
    rows = itertools.chain(head, incoming)
    return RecordFile(format_name, (_parse(row, file_format) for row in rows))


def in_memory(rows: Iterable[AnyRecord | dict[str, Any]], name: str) -> RecordFile:
    """Reads rows that are in memory as `open_file` reads those of a file.

    Args:
      rows: records, or dicts in any one format.
      name: name of the rows, in messages.

    Raises:
      files.DataError: the dicts are in no format that we know.
    """
    numbered = list(enumerate(rows, 1))
    read = [
        files.Row(row, name, number)
        for number, row in numbered
        if isinstance(row, dict)
    ]
    found = _detected(read[:_ROWS_TO_DETECT], name)
    file_format = _FORMATS.get(found or "")
    return RecordFile(
        found,
        (
            _parse(files.Row(row, name, number), file_format)
            if isinstance(row, dict)
            else (files.Row({}, name, number), row)
            for number, row in numbered
        ),
    )


def read(
    paths: files.PathLike | Iterable[files.PathLike],
    quarantine: files.Quarantine,
    kind: str,
) -> ReadResult[Any]:
    """Reads the records of one kind.

    Args:
      paths: a file, a folder, or several of them.
      quarantine: receives the rows that give no record.
      kind: a key of `FORMATS`.

    Raises:
      files.DataError: a file is missing or unreadable, or holds something else.
    """
    records: list[Any] = []
    detected: dict[str, str | None] = {}
    rows, before = 0, quarantine.total
    for path in files.list_files(paths):
        opened = open_file(path)
        detected[str(path)] = opened.format
        if opened.format and kind_of(opened.format) != kind:
            raise files.DataError(
                f"{path}: holds no {kind}: its rows are in the format "
                f"{opened.format!r}. Known formats: {_listed(kind)}."
            )
        for item in opened.rows:
            rows += 1
            if isinstance(item, files.BadRow):
                quarantine.add(item)
            else:
                records.append(item[1])
    return ReadResult(records, detected, rows, quarantine.total - before)


def _detected(
    rows: Sequence[files.Row | files.BadRow], path: files.PathLike
) -> str | None:
    """Returns the format of the first row that is in any; None without good rows."""
    values = [row.value for row in rows if isinstance(row, files.Row)]
    for value in values:
        if found := detect(value):
            return found
    if not values:
        return None
    raise files.DataError(
        f"{path}: unknown format, with the fields "
        f"{', '.join(sorted(values[0])) or 'none'}. Known formats: "
        f"{'; '.join(_listed(kind) for kind in FORMATS)}."
    )


def _listed(kind: str) -> str:
    return "; ".join(map(str, FORMATS[kind]))


def _parse(
    row: files.Row | files.BadRow, file_format: Format | None
) -> tuple[files.Row, AnyRecord] | files.BadRow:
    if isinstance(row, files.BadRow):
        return row
    if file_format is None:  # nothing readable at the start of the file
        return row.reject("", "unknown format")
    try:
        record = file_format.parse(row.value)
    except fields.Reject as reject:
        return row.reject(reject.field, reject.reason)
    source = Provenance(row.file, row.row)
    return row, dataclasses.replace(record, id=_id(row.value), source=source)


def _id(row: fields.Fields) -> str:
    """Returns the id that a row names itself by, "" without one."""
    for name in ID_FIELDS:
        value = row.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # tables with gaps write 7 as 7.0
        if isinstance(value, str | int) and value != "":
            return str(value)
    return ""

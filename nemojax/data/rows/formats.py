"""Records from rows of the layouts in which people already have their data.

The format of a file is told by the fields of its first good row, see `FORMATS`, and
all its rows are read in this format. Three readers give the three kinds of records.
A row that gives none goes to the quarantine with its file, row, field and reason, so
that `rows` is always `len(records) + bad`. Placeholders such as `{{name}}` are left
as text.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from nemojax.data.records import (
    AnyRecord,
    AttributeLabels,
    Conversation,
    PreferencePair,
    Provenance,
)
from nemojax.data.rows import (
    attribute_formats,
    conversation_formats,
    preference_formats,
)
from nemojax.io import fields, files

Record = TypeVar("Record")

# Kinds of records and their formats. A row belongs to the first format that
# recognises it; conversations come last, for their formats ask for the fewest fields.
FORMATS: dict[str, tuple[fields.Format, ...]] = {
    "preference pairs": preference_formats.FORMATS,
    "attribute labels": attribute_formats.FORMATS,
    "conversations": conversation_formats.FORMATS,
}

_KINDS = {entry.name: kind for kind, entries in FORMATS.items() for entry in entries}

# Fields that name a row; the first that holds a text or a whole number counts.
ID_FIELDS = ("id", "uuid", "prompt_id")

# How many rows at the start of a file may be broken before its format is given up.
_ROWS_TO_DETECT = 100


@dataclasses.dataclass(frozen=True)
class ReadResult(Generic[Record]):
    """What a reader gave.

    Attributes:
      records: in the order of the files and their rows.
      detected: name of the format of each file; None where no row was readable.
      rows: number of rows met.
      bad: those that gave no record; all are in the quarantine.
    """

    records: list[Record]
    detected: dict[str, str | None]
    rows: int
    bad: int


def detect(row: dict[str, Any]) -> str | None:
    """Name of the format that a row is in, or None if it is in none we know."""
    found = _find_any(row)
    return found.name if found else None


def kind_of(name: str) -> str:
    """The kind of records, a key of `FORMATS`, that the format of that name gives."""
    return _KINDS[name]


def detect_file(path: files.PathLike) -> str | None:
    """Name of the format of a file; None where no row at its start is readable.

    Raises:
      files.DataError: the file is unreadable, or in no format that we know.
    """
    found = _format_of(path)
    return found.name if found else None


def read_file(
    path: files.PathLike, after: int = 0
) -> Iterator[tuple[files.Row, AnyRecord] | files.BadRow]:
    """Reads a file of any kind of records, a row at a time: none is held or lost.

    Args:
      path: of the file.
      after: rows up to this number are passed over.

    Raises:
      files.DataError: the file is unreadable, or in no format that we know.
    """
    file_format = _format_of(path)
    for row in files.read_rows(path, after):
        outcome = _parse(row, file_format)
        if isinstance(outcome, files.BadRow):
            yield outcome
        else:
            assert isinstance(row, files.Row)
            yield row, outcome


def read_conversations(
    paths: files.PathLike | Iterable[files.PathLike], quarantine: files.Quarantine
) -> ReadResult[Conversation]:
    """Reads fine-tuning dialogues, each ending with an assistant turn.

    Args:
      paths: a file, a folder, or several of them.
      quarantine: receives the rows that give no record.

    Raises:
      files.DataError: a file is missing or unreadable, or holds something else.
    """
    return _read(paths, quarantine, "conversations")


def read_preferences(
    paths: files.PathLike | Iterable[files.PathLike], quarantine: files.Quarantine
) -> ReadResult[PreferencePair]:
    """Reads preference pairs. Arguments and errors as for `read_conversations`."""
    return _read(paths, quarantine, "preference pairs")


def read_attributes(
    paths: files.PathLike | Iterable[files.PathLike], quarantine: files.Quarantine
) -> ReadResult[AttributeLabels]:
    """Reads attribute labels. Arguments and errors as for `read_conversations`."""
    return _read(paths, quarantine, "attribute labels")


def _find_any(row: dict[str, Any]) -> fields.Format | None:
    return next((found for kind in FORMATS if (found := _find(row, kind))), None)


def _format_of(path: files.PathLike) -> fields.Format | None:
    """The format of the first row that is in any; None without good rows."""
    first = itertools.islice(files.read_rows(path), _ROWS_TO_DETECT)
    values = [row.value for row in first if isinstance(row, files.Row)]
    for value in values:
        if found := _find_any(value):
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


def _find(row: dict[str, Any], kind: str) -> fields.Format | None:
    return next((entry for entry in FORMATS[kind] if entry.recognises(row)), None)


def _read(
    paths: files.PathLike | Iterable[files.PathLike],
    quarantine: files.Quarantine,
    kind: str,
) -> ReadResult[Any]:
    records: list[Any] = []
    detected: dict[str, str | None] = {}
    rows = bad = 0
    for path in files.list_files(paths):
        incoming = files.read_rows(path)
        first = list(itertools.islice(incoming, _ROWS_TO_DETECT))
        file_format = _file_format(first, kind, str(path))
        detected[str(path)] = file_format.name if file_format else None
        for row in itertools.chain(first, incoming):
            rows += 1
            outcome = _parse(row, file_format)
            if isinstance(outcome, files.BadRow):
                bad += 1
                quarantine.add(outcome)
            else:
                records.append(outcome)
    return ReadResult(records, detected, rows, bad)


def _parse(row: files.Row | files.BadRow, file_format: fields.Format | None) -> Any:
    """The record or the bad row."""
    if isinstance(row, files.BadRow):
        return row
    if file_format is None:  # nothing readable at the start of the file
        return row.reject("", "unknown format")
    try:
        record = file_format.parse(row.value)
    except fields.Reject as reject:
        return row.reject(reject.field, reject.reason)
    source = Provenance(row.file, row.row)
    return dataclasses.replace(record, id=_id(row.value), source=source)


def _id(row: fields.Fields) -> str:
    """Returns the id that a row names itself by, "" without one."""
    named = (row.get(name) for name in ID_FIELDS)
    found = (value for value in named if isinstance(value, str | int) and value != "")
    return str(next(found, ""))


def _file_format(
    rows: Sequence[files.Row | files.BadRow], kind: str, file: str
) -> fields.Format | None:
    """The format of the first row that is of this kind; None without good rows."""
    values = [row.value for row in rows if isinstance(row, files.Row)]
    for value in values:
        # Another kind may come first: a labelled response is a conversation, too.
        if (found := _find(value, kind)) and found.name == detect(value):
            return found
    if not values:
        return None
    other = detect(values[0])
    problem = f"its rows are in the format {other!r}" if other else "unknown format"
    raise files.DataError(
        f"{file}: holds no {kind}: {problem}, with the fields "
        f"{', '.join(sorted(values[0])) or 'none'}. Known formats: {_listed(kind)}."
    )

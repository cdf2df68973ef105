"""Files of one layout from files of others, row by row.

The output and the file of its rejects appear at once, when they are whole. Of a
preference pair a layout for conversations gets the prompt and the chosen response.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from nemojax.data.records import (
    AnyRecord,
    AttributeLabels,
    Conversation,
    PreferencePair,
    conversation_of,
)
from nemojax.data.rows import formats, writers
from nemojax.io import files, folders, json_text, quarantine
from nemojax.io.quarantine import BadRow, DataError, Quarantine

_KINDS = {
    Conversation: "conversations",
    PreferencePair: "preference pairs",
    AttributeLabels: "attribute labels",
}


@dataclasses.dataclass(frozen=True)
class InputFile:
    """A file to convert.

    Attributes:
      path: path of the file.
      format: name of its format; None where no row at its start is readable.
    """

    path: pathlib.Path
    format: str | None


@dataclasses.dataclass(frozen=True)
class Converted:
    """Result of a conversion.

    Attributes:
      rows: met in all files.
      written: number of rows written to the output.
      reasons: rows that gave nothing, by reason; `rows` is their sum and `written`.
      rejects: the file that lists them; None where there are none.
    """

    rows: int
    written: int
    reasons: dict[str, int]
    rejects: pathlib.Path | None


def find(
    paths: files.PathLike | Sequence[files.PathLike],
    target: str,
    drop_labels: bool = False,
) -> list[InputFile]:
    """Finds the files to convert, with their formats, before any work is done.

    Args:
      paths: files and folders.
      target: one of `writers.TARGETS`.
      drop_labels: whether labelled responses may become conversations without labels.

    Raises:
      DataError: a file is missing or unreadable, or in no known format, or the target
        cannot hold its kind of records.
    """
    sources = [
        InputFile(path, formats.open_file(path).format)
        for path in files.list_files(paths)
    ]
    for source in sources:
        if source.format is not None:
            _check_kind(source, target, drop_labels)
    return sources


def _check_kind(source: InputFile, target: str, drop_labels: bool) -> None:
    assert source.format is not None
    kind, wanted = formats.kind_of(source.format), _KINDS[writers.TARGETS[target].kind]
    if kind == wanted:
        return
    holds = f"{source.path}: holds {kind} ({source.format})"
    if wanted != _KINDS[Conversation]:
        fitting = [
            name
            for name, layout in writers.TARGETS.items()
            if _KINDS[layout.kind] in (kind, _KINDS[Conversation])
        ]
        raise DataError(
            f"{holds}, and {target} holds {wanted}; choose one of {', '.join(fitting)}."
        )
    if kind == _KINDS[AttributeLabels] and not drop_labels:
        raise DataError(
            f"{holds}, and {target} has no place for labels; drop them with "
            "--drop_labels, or choose a layout for labels."
        )


def convert(
    sources: Sequence[InputFile],
    target: str,
    out: files.PathLike,
    max_bad_fraction: float = 0.05,
) -> Converted:
    """Writes the rows of all files to `out`, and what gives none to its rejects.

    Args:
      sources: sources of `find`.
      target: one of `writers.TARGETS`.
      out: a file that ends in .jsonl and does not exist; the rejects lie beside it and
        end in .rejects.jsonl.
      max_bad_fraction: largest share of all rows that may be malformed, or more than
        the target can hold.

    Raises:
      DataError: `out` cannot be used, or more rows than that are bad. Then there is no
        `out`, but the rejects are written.
    """
    path = require_free(out)
    bad, written = Quarantine(), 0
    with folders.replacing(path) as stream:
        for item in _rows(sources, target):
            if isinstance(item, BadRow):
                bad.add(item)
                continue
            written += 1
            stream.write(json_text.line(item))
        rows = written + bad.total
        rejects = bad.write(quarantine.beside(path))
        bad.check(rows, max_bad_fraction, rejects)
    return Converted(rows, written, bad.counts, rejects)


def require_free(out: files.PathLike) -> pathlib.Path:
    """Returns the file to write as a path.

    Raises:
      DataError: it exists, its folder does not, or it does not end in .jsonl.
    """
    path = pathlib.Path(out)
    if path.suffix != ".jsonl":
        raise DataError(f"{path}: rows are written as .jsonl; give it this ending.")
    if path.exists():
        raise DataError(f"{path}: exists; remove it, or name another file.")
    if not path.parent.is_dir():
        raise DataError(f"{path.parent}: no such folder; make it first.")
    return path


def _rows(
    sources: Sequence[InputFile], target: str
) -> Iterator[dict[str, Any] | BadRow]:
    kind = writers.TARGETS[target].kind
    for source in sources:
        for item in formats.open_file(source.path, 0, source.format).rows:
            if isinstance(item, BadRow):
                yield item
                continue
            row, record = item
            try:
                yield writers.to_row(_as_kind(record, kind), target)
            except ValueError as error:
                yield row.reject("", f"{target} cannot hold it: {error}")


def _as_kind(record: AnyRecord, kind: type[AnyRecord]) -> AnyRecord:
    """Returns the record, or the conversation in it where those are wanted."""
    if kind is not Conversation or isinstance(record, Conversation):
        return record
    talk = conversation_of(record)
    if isinstance(record, PreferencePair):
        talk = talk.with_response(record.chosen)
    return dataclasses.replace(talk, id=record.id, source=record.source)

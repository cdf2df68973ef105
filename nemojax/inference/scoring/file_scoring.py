"""Scoring of all rows of data files, in parts; resumed after the last whole one.

A part is the scores of a number of consecutive rows, good and bad, so what a part holds
depends on the data and the settings alone. While the device computes one part, the host
reads and encodes the next; no more than these two are in memory.
"""

import dataclasses
import math
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from nemojax.data.records import AttributeLabels, Conversation, PreferencePair
from nemojax.data.rows import formats
from nemojax.inference.scoring import scoring
from nemojax.inference.scoring.buckets import TokenSequence
from nemojax.inference.scoring.scorer import Scorer
from nemojax.io import files, folders
from nemojax.io.files import BadRow, DataError
from nemojax.io.parts import REJECTS, Parts
from nemojax.io.quarantine import Quarantine
from nemojax.io.workdir import Workdir

SUMMARY = "summary.json"
# Where reading goes on: index of the file, and the number of its last row read.
Place = tuple[int, int]
_MESSAGE = re.compile(r"(message \d+): (.*)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class InputFiles:
    """Data files, counted before the work begins.

    Attributes:
      paths: paths in order.
      formats: format of each file, see `formats.RecordFile`.
      rows: number of rows of each file, good and bad.
    """

    paths: tuple[pathlib.Path, ...]
    formats: tuple[str | None, ...]
    rows: tuple[int, ...]

    @classmethod
    def find(cls, paths: Sequence[str]) -> "InputFiles":
        """Counts the rows of files and of the files in folders.

        Raises:
          DataError: a file is missing, damaged, or holds rows in no known format.
        """
        found = files.list_files(paths)
        names = tuple(formats.open_file(path).format for path in found)
        return cls(tuple(found), names, tuple(map(files.count_rows, found)))

    def configuration(self) -> dict[str, Any]:
        """Returns names and sizes of the files, as JSON."""
        named = [(str(path), path.stat().st_size) for path in self.paths]
        return {
            "files": len(named),
            **{f"file {index}": found for index, found in enumerate(named)},
        }

    @property
    def total(self) -> int:
        """Number of rows of all files."""
        return sum(self.rows)


@dataclasses.dataclass
class InputPart:
    """Part of the input: rows that are read and encoded.

    Attributes:
      end: row where the next part begins.
      rows: file, number, and sides of each row to score: "chosen" and
        "rejected" of a pair, "" of a conversation.
      sequences: sequences of all sides, in order.
      rejects: rows that are not scored.
    """

    end: Place
    rows: list[tuple[str, int, tuple[str, ...]]] = dataclasses.field(
        default_factory=list
    )
    sequences: list[TokenSequence] = dataclasses.field(default_factory=list)
    rejects: Quarantine = dataclasses.field(default_factory=Quarantine)

    @property
    def size(self) -> int:
        """Number of input rows."""
        return len(self.rows) + self.rejects.total


def read(scorer: Scorer, data: InputFiles, start: Place) -> Iterator[InputPart]:
    """Yields parts of `part_rows` encoded rows; the last one may have fewer.

    Raises:
      DataError: a file has become unreadable.
    """
    part = InputPart(start)
    for index in range(start[0], len(data.paths)):
        after = start[1] if index == start[0] else 0
        opened = formats.open_file(data.paths[index], after, data.formats[index])
        for item in opened.rows:
            number = _add(scorer, part, item)
            # Row 0 stands for a file without rows, which is then done.
            part.end = (index, number) if number else (index + 1, 0)
            if part.size == scorer.settings.part_rows:
                yield part
                part = InputPart(part.end)
    if part.size:
        yield part


def _add(scorer: Scorer, part: InputPart, item: Any) -> int:
    """Adds a row to the part, to score or rejected; returns its number."""
    if isinstance(item, BadRow):
        part.rejects.add(item)
        return item.row
    row, record = item
    limit = scorer.settings.max_length
    found = []
    for side, conversation in _sides(record):
        try:
            sequence = scorer.encode(conversation)
        except ValueError as error:
            where = _MESSAGE.fullmatch(str(error))
            field, reason = where.groups() if where else (side, str(error))
            part.rejects.add(row.reject(field, reason))
            return row.row
        if len(sequence[0]) > limit:
            part.rejects.add(row.reject(side, f"longer than {limit} tokens"))
            return row.row
        found.append((side, sequence))
    part.rows.append((row.file, row.row, tuple(side for side, _ in found)))
    part.sequences += [sequence for _, sequence in found]
    return row.row


def _sides(record: formats.AnyRecord) -> list[tuple[str, Conversation]]:
    """Returns the conversations of a record that are scored, by name."""
    if isinstance(record, PreferencePair):
        prompt = record.prompt
        return [
            ("chosen", prompt.with_response(record.chosen)),
            ("rejected", prompt.with_response(record.rejected)),
        ]
    if isinstance(record, AttributeLabels):
        return [("", record.conversation)]
    return [("", record)]


def _written(
    scorer: Scorer, parts: Parts, incoming: Iterator[InputPart]
) -> Iterator[dict[str, Any]]:
    """Writes parts and yields their facts, each while the next is being computed."""
    waiting = None
    for part in incoming:
        begun = part, scorer.begin(part.sequences)
        if waiting is not None:
            yield _write(scorer, parts, *waiting)
        waiting = begun
    if waiting is not None:
        yield _write(scorer, parts, *waiting)


def _write(
    scorer: Scorer, parts: Parts, part: InputPart, pending: scoring.Pending
) -> dict[str, Any]:
    values, rows = pending.result(), part.size
    found = []
    kept: dict[str, list[np.ndarray]] = {}  # by side
    tokens = start = 0
    for file, number, sides in part.rows:
        stop = start + len(sides)
        own, sequences = values[start:stop], part.sequences[start:stop]
        start = stop
        if not np.isfinite(own).all():
            part.rejects.add(BadRow(file, number, "", "score not finite"))
            continue
        entry: dict[str, Any] = {"file": file, "row": number}
        for side, value, (ids, mask) in zip(sides, own, sequences, strict=True):
            score = scorer.score(value, mask)
            entry |= {side: score} if side else score
            kept.setdefault(side, []).append(np.atleast_1d(value))
            tokens += len(ids)
        found.append(entry)
    facts = {
        "end": part.end,
        "rows": rows,
        "scored": len(found),
        "tokens": tokens,
        "sums": _sums(scorer.value_names, kept),
    }
    return parts.write(found, part.rejects, facts)


def _sums(
    names: Sequence[str], kept: dict[str, list[np.ndarray]]
) -> dict[str, list[float]]:
    """Computes count, sum and sum of squares by side and name."""
    found = {}
    for side, rows in kept.items():
        columns = np.array(rows, np.float64).T
        for name, column in zip(names, columns, strict=True):
            moments = [len(column), float(column.sum()), float((column**2).sum())]
            found[f"{side} {name}".strip()] = moments
    return found


class Totals:
    """Counts and sums over parts."""

    def __init__(self) -> None:
        self.rows = self.scored = self.tokens = 0
        self.rejects = Quarantine()
        self.sums: dict[str, np.ndarray] = {}  # name: count, sum, sum of squares

    def add(self, facts: dict[str, Any]) -> None:
        """Adds a part by its facts."""
        for name in ("rows", "scored", "tokens"):
            setattr(self, name, getattr(self, name) + facts[name])
        self.rejects.include(facts)
        for name, sums in facts["sums"].items():
            self.sums[name] = self.sums.get(name, 0) + np.array(sums)

    def summary(self) -> dict[str, Any]:
        """Returns counts, and mean and standard deviation of each value, as JSON."""
        values = {}
        for name, (count, total, squares) in self.sums.items():
            mean = total / count
            deviation = math.sqrt(max(0.0, squares / count - mean**2))
            values[name] = {"mean": mean, "std": deviation, "n": int(count)}
        return {
            "rows": self.rows,
            "scored": self.scored,
            "tokens": self.tokens,
            "rejected": self.rejects.counts,
            "values": values,
        }


def run(
    scorer: Scorer,
    data: InputFiles,
    out: str | pathlib.Path,
    max_bad_fraction: float,
    progress: Callable[[Totals, float], None] = lambda totals, seconds: None,
) -> dict[str, Any]:
    """Scores the parts that are not scored yet.

    Args:
      scorer: the model.
      data: the files.
      out: the folder; goes on there if it holds a run of the same configuration.
      max_bad_fraction: largest share of all rows that may be rejected as malformed.
      progress: called with the totals, and the seconds since this call, after each
        part.

    Returns:
      The summary, with `seconds` and the rows and tokens a second of this call.

    Raises:
      DataError: more rows than that are bad, and all that is done stays; or a file
        has changed since its rows were counted.
      WorkdirError: the folder holds something else, or is in use.
    """
    configuration = scorer.configuration() | data.configuration()
    folder = Workdir(out, configuration, flag="--out")
    try:
        parts, totals = Parts(folder.path), Totals()
        listed = f"{folder.path}/part-*{REJECTS}"
        for facts in parts.facts:
            totals.add(facts)
        totals.rejects.check(data.total, max_bad_fraction, listed)
        rows, tokens, start = totals.rows, totals.tokens, time.monotonic()
        progress(totals, 0.0)
        index, row = parts.facts[-1]["end"] if parts.facts else (0, 0)
        for facts in _written(scorer, parts, read(scorer, data, (index, row))):
            totals.add(facts)
            totals.rejects.check(data.total, max_bad_fraction, listed)
            progress(totals, time.monotonic() - start)
        seconds = time.monotonic() - start
        if totals.rows != data.total:
            raise DataError(
                f"{totals.rows} rows were read where {data.total} had been counted: a "
                "file has changed meanwhile; name another --out"
            )
        summary = {"kind": scorer.settings.kind, "parts": len(parts.facts)}
        summary |= totals.summary()
        folders.write_json(folder.path / SUMMARY, summary)
    finally:
        folder.close()
    return summary | {
        "seconds": seconds,
        "rows_per_second": (totals.rows - rows) / seconds,
        "tokens_per_second": (totals.tokens - tokens) / seconds,
    }

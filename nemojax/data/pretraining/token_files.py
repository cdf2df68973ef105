"""A file of tokenized text: an ArrayRecord with what is needed to find things in it.

    NAME.array_record   records of token ids: a document, or 16,384 tokens of one
    NAME.npz            of each record: tokens, group, row of the input, checksum
    NAME.rejects.jsonl  rows that gave no document, with file, row, field and reason
    NAME.json           groups, counts and checksums, its own, too; written last

A group is what blends tell apart: class, language, source and split. The end of a
document is the end-of-text token. Every record is verified when it is read, what
stands beside them when they are opened.
"""

import collections
import dataclasses
import functools
import hashlib
import io
import pathlib
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from nemojax.data.held_out import is_held_out
from nemojax.data.pretraining import corpus
from nemojax.data.text.tokenizer import Tokenizer
from nemojax.errors import UserError
from nemojax.io import folders, quarantine, sealed
from nemojax.io.quarantine import DataError

VERSION = 1
RECORD_TOKENS = 16_384
RECORDS, ARRAYS, FACTS = ".array_record", ".npz", ".json"
_COLUMNS, _CHECKSUM = ("tokens", "group", "row"), "checksum"
REJECTS = f".{quarantine.REJECTS}"
TRAINING, VALIDATION = "training", "validation"
# Every record by itself, as it is: read at random, and kept as numpy sees it.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


class Group(NamedTuple):
    """Text that blends tell apart by its `text_class`, `language` and `source`."""

    text_class: str
    language: str
    source: str
    split: str


@dataclasses.dataclass(frozen=True)
class TokenizeJob:
    """One input file to tokenize; all that the output depends on.

    Attributes:
      path: a `.jsonl`, `.json` or `.parquet` file, or their `.gz` or `.zst`.
      text_class: class of all rows of the input.
      out: the output without suffix.
      split: split of all rows, or "" to decide by a hash of each text.
      validation_share: share of the documents that is held out, where `split` is "".
    """

    path: pathlib.Path
    text_class: str
    out: pathlib.Path
    split: str = TRAINING
    validation_share: float = 0.0

    def settings(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """Returns the settings that a finished output of this job must have."""
        return {
            "version": VERSION,
            "input": self.path.name,
            "input_bytes": self.path.stat().st_size,
            "input_sha256": folders.sha256(self.path),
            "text_class": self.text_class,
            "split": self.split,
            "validation_share": self.validation_share,
            "tokenizer": tokenizer.fingerprint,
        }


def dtype(tokenizer_size: int) -> np.dtype:
    """Returns the little-endian dtype of token ids: 2 bytes where the ids fit."""
    return np.dtype("<u2" if tokenizer_size <= 65_536 else "<u4")


def tokenize(job: TokenizeJob, tokenizer: Tokenizer) -> dict[str, Any]:
    """Tokenizes one file, if it is not done already; returns its facts.

    The same bytes come of the same file and tokenizer, wherever it is done.

    Raises:
      DataError: the file is missing or unreadable.
    """
    settings = job.settings(tokenizer)
    facts = _finished(job.out, settings)
    if facts is not None:
        return facts
    job.out.parent.mkdir(parents=True, exist_ok=True)
    rejects = quarantine.Quarantine()
    writer = _Writer(job.out, dtype(tokenizer.vocab_size))
    for document, row in corpus.read_numbered(job.path, job.text_class, rejects):
        ids = [*tokenizer.encode(document.text), tokenizer.eos_id]
        held = is_held_out(document.text, job.validation_share)
        split = job.split or (VALIDATION if held else TRAINING)
        group = Group(job.text_class, document.language, document.source, split)
        writer.add(ids, group, row, corpus.utf8_bytes(document.text))
    facts = settings | writer.close() | {"rejects": rejects.total} | rejects.facts
    rejects.write(_with(job.out, REJECTS))
    sealed.write(_with(job.out, FACTS), facts)
    return facts


def _with(out: pathlib.Path, suffix: str) -> pathlib.Path:
    return out.with_name(out.name + suffix)


def _finished(out: pathlib.Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    path = _with(out, FACTS)
    if not path.exists():
        return None
    try:
        facts = sealed.read(path)
    except UserError:
        return None
    # Without reasons: of an earlier version, which did not count them.
    same = "reasons" in facts and all(
        facts.get(name) == value for name, value in settings.items()
    )
    return facts if same and not damage(out, facts) else None


def damage(out: pathlib.Path, facts: dict[str, Any]) -> str:
    """Describes the damage of a finished file, by its checksums; "" if it has none."""
    for suffix, digest in facts["sha256"].items():
        path = _with(out, suffix)
        if not path.exists():
            return f"{path} is missing"
        if folders.sha256(path) != digest:
            return f"{path} does not have the checksum that it was written with"
    return ""


class _Writer:
    """Writer of records, and of the facts about them at the end."""

    def __init__(self, out: pathlib.Path, ids_dtype: np.dtype):
        self._out, self._dtype = out, ids_dtype
        self._records = ArrayRecordWriter(str(_with(out, RECORDS)), _WRITER_OPTIONS)
        self._groups: dict[Group, int] = {}
        # Tokens, group, row of the input, checksum.
        self._rows: list[tuple[int, int, int, int]] = []
        self._counts: dict[int, collections.Counter] = {}

    def add(self, ids: list[int], group: Group, row: int, num_bytes: int) -> None:
        number = self._groups.setdefault(group, len(self._groups))
        for start in range(0, len(ids), RECORD_TOKENS):
            part = np.array(ids[start : start + RECORD_TOKENS], self._dtype).tobytes()
            self._records.write(part)
            tokens = len(part) // self._dtype.itemsize
            self._rows.append((tokens, number, row, zlib.crc32(part)))
        counts = self._counts.setdefault(number, collections.Counter())
        counts.update(documents=1, tokens=len(ids), bytes=num_bytes)

    def close(self) -> dict[str, Any]:
        self._records.close()
        columns = np.array(self._rows, np.int64).reshape(-1, 4)
        *numbers, sums = columns.T
        arrays: dict[str, Any] = dict(
            zip(_COLUMNS, np.array(numbers, np.int32), strict=True)
        )
        arrays[_CHECKSUM] = sums.astype(np.uint32)
        with _with(self._out, ARRAYS).open("wb") as stream:
            np.savez(stream, **arrays)
        written = {
            suffix: folders.sha256(_with(self._out, suffix))
            for suffix in (RECORDS, ARRAYS)
        }
        groups = [
            group._asdict() | self._counts[number]
            for group, number in self._groups.items()
        ]
        return {
            "dtype": self._dtype.str,
            "records": len(self._rows),
            "tokens": int(columns[:, 0].sum()),
            "groups": groups,
            "sha256": written,
        }


class TokenFile:
    """Reader of a tokenized file."""

    def __init__(self, out: pathlib.Path):
        """Opens what `tokenize` wrote.

        Raises:
          DataError: a part is missing, damaged or of another version.
        """
        self.out = out
        self.path = _with(out, RECORDS)
        try:
            self.facts = sealed.read(_with(out, FACTS))
            if self.facts["version"] != VERSION:
                raise ValueError("another version")
            arrays = _arrays(_with(out, ARRAYS), self.facts["sha256"][ARRAYS])
            self.tokens, self.group, self.row = (arrays[name] for name in _COLUMNS)
            self._checksums = arrays.get(_CHECKSUM)  # an earlier version had none
            self.groups = [
                Group(*(group[name] for name in Group._fields))
                for group in self.facts["groups"]
            ]
            tokens = np.bincount(self.group, self.tokens, len(self.groups)).tolist()
            if tokens != [group["tokens"] for group in self.facts["groups"]]:
                raise ValueError("it counts other tokens than it holds")
            self._dtype = np.dtype(self.facts["dtype"])
            self.path.stat()
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise DataError(
                f"{out}: not a whole tokenized file ({error}); tokenize it again"
            ) from error

    @functools.cached_property
    def _reader(self) -> ArrayRecordReader:
        try:
            reader = ArrayRecordReader(str(self.path), _READER_OPTIONS)
            records = reader.num_records()
        except (RuntimeError, ValueError) as error:
            raise DataError(f"{self.path}: cannot be opened ({error})") from error
        if records != len(self.tokens):
            raise DataError(
                f"{self.path}: holds {records} records, {len(self.tokens)} are known"
            )
        return reader

    def read(self, record: int) -> np.ndarray:
        """Returns the token ids of a record, uint16 or uint32 [tokens], uncopied.

        Raises:
          DataError: the record is damaged; names file, record and row of the input.
        """
        try:
            (content,) = self._reader.read([record])
            ids = np.frombuffer(content, self._dtype)
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(f"{self.where(record)}: {_first_line(error)}") from error
        if len(ids) != self.tokens[record]:
            raise DataError(
                f"{self.where(record)}: {len(ids)} tokens, {self.tokens[record]} known"
            )
        if (
            self._checksums is not None
            and zlib.crc32(content) != self._checksums[record]
        ):
            raise DataError(f"{self.where(record)}: not as it was written")
        return ids

    def where(self, record: int) -> str:
        """Names a record."""
        return (
            f"{self.path}, record {record} (row {self.row[record]} of "
            f"{self.facts['input']})"
        )


def _arrays(path: pathlib.Path, digest: str) -> dict[str, np.ndarray]:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{path} is not as it was written")
    with np.load(io.BytesIO(content)) as arrays:
        return dict(arrays)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def totals(facts: Iterable[dict[str, Any]]) -> dict[Group, collections.Counter]:
    """Counts documents, tokens and bytes of each group in all files."""
    found: dict[Group, collections.Counter] = {}
    for one in facts:
        for group in one["groups"]:
            key = Group(*(group[name] for name in Group._fields))
            counts = {name: group[name] for name in ("documents", "tokens", "bytes")}
            found.setdefault(key, collections.Counter()).update(counts)
    return found

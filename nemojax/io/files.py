"""Rows from files: every row is either read or named in a quarantine.

`.jsonl` holds one JSON object a line, `.json` one list of objects; both may be
compressed (`.jsonl.gz`, `.json.zst`), and so may `.csv`, whose first row names the
fields. `.parquet` holds a table. Parquet and zstd need the extra `data`. Text is UTF-8,
with or without a byte order mark.
A row that cannot be read becomes a `BadRow` with its file, number, field and reason,
and reading goes on with the next row; only what makes the whole file or folder useless
raises `DataError`. So the good and the bad rows of a file always add up to its rows.
"""

import contextlib
import gzip
import io
import os
import pathlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from nemojax.io import csv_rows, json_text, parquet_rows, quarantine
from nemojax.io.quarantine import BadRow, DataError, PathLike, Quarantine, Row

__all__ = [
    "BadRow",
    "DataError",
    "PathLike",
    "Quarantine",
    "Row",
    "count_rows",
    "list_files",
    "read_rows",
]

MAX_LINE_BYTES = 10 * 1024**2
MAX_JSON_BYTES = 1024**3  # a .json list has to be held in memory as a whole
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
SUFFIXES = (
    *(
        kind + packed
        for kind in (".jsonl", ".json", ".csv")
        for packed in ("", ".gz", ".zst")
    ),
    ".parquet",
)


def list_files(paths: PathLike | Iterable[PathLike]) -> list[pathlib.Path]:
    """Lists the data files that `paths` name: a file, a folder, or several of them.

    A folder stands for the files in it that end in one of `SUFFIXES`, sorted by name.

    Raises:
      DataError: a path does not exist, is not a data file, or is a folder without any.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    files: list[pathlib.Path] = []
    for path in map(pathlib.Path, paths):
        if not path.is_dir():
            _check_is_data_file(path)
            files.append(path)
            continue
        try:
            inside = sorted(path.iterdir())
        except OSError as error:
            raise _unreadable(path, error) from error
        inside = [file for file in inside if file.name.endswith(SUFFIXES)]
        if not inside:
            raise DataError(
                f"{path}: the folder holds no data file; put files that end in "
                f"{', '.join(SUFFIXES)} there."
            )
        files.extend(inside)
    if not files:
        raise DataError("No data file was named; name at least one file or folder.")
    return files


def read_rows(path: PathLike, after: int = 0) -> Iterator[Row | BadRow]:
    """Reads one file, a row at a time.

    A `.jsonl` or `.csv` file is streamed; no line longer than `MAX_LINE_BYTES` is
    held. Blank lines are no rows. Lines may end in LF or CRLF.

    Args:
      path: path of the file.
      after: rows up to this number are passed over, unread where the kind of file
        allows it.

    Raises:
      DataError: the file is missing, not a file, unreadable, of an unknown kind, or
        corrupt as a whole (a gzip file cut short loses only its missing rows).
    """
    path = pathlib.Path(path)
    is_empty = after == 0
    with _reading(path) as stream:
        for row in _READERS[_kind(path)](stream, str(path), after):
            is_empty = False
            yield row
    if is_empty:
        yield BadRow(str(path), 0, "", "empty file")


def count_rows(path: PathLike) -> int:
    """Counts the rows of `read_rows`, good and bad; parses no line of `.jsonl`.

    Raises:
      DataError: as `read_rows`.
    """
    path = pathlib.Path(path)
    with _reading(path) as stream:
        kind = _kind(path)
        if kind == ".parquet":
            count = parquet_rows.count(stream, str(path))
        elif kind == ".jsonl":
            count = sum(1 for _ in _rows_of(stream, str(path)))
        else:
            count = sum(1 for _ in _READERS[kind](stream, str(path), 0))
    return max(1, count)


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[Any]:
    """Opens the bytes of a data file; damage of the whole file is a DataError."""
    _check_is_data_file(path)
    try:
        with open(path, "rb") as raw:
            if raw.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise DataError(
                    f"{path}: a pointer of git-lfs, not the file; fetch the file with "
                    "`git lfs pull`."
                )
        with _opened(path) as stream:
            yield stream
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: corrupt {_packing(path)} data ({error}); fetch or compress the "
            "file again."
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _opened(path: pathlib.Path) -> Any:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    if path.suffix == ".zst":
        return io.BufferedReader(_Zstd(path))
    return open(path, "rb")


def _kind(path: pathlib.Path) -> str:
    """Returns the suffix less that of a compression."""
    return pathlib.Path(path.name.removesuffix(".gz").removesuffix(".zst")).suffix


def _packing(file: PathLike) -> str:
    return "zstd" if str(file).endswith(".zst") else "gzip"


class _Zstd(io.RawIOBase):
    """Decompresses; what is cut short ends with the error that gzip gives."""

    def __init__(self, path: pathlib.Path):
        self._path, self._done = path, 0
        self._stream = self._open()

    def _open(self) -> Any:
        arrow = parquet_rows.arrow("pyarrow", self._path)
        return arrow.input_stream(str(self._path), compression="zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self._stream.read(len(buffer))
        except OSError as error:
            if "Truncated" not in str(error):
                raise zlib.error(str(error)) from error
            content = self._before_the_cut()
            if not content:
                raise EOFError(str(error)) from error
        buffer[: len(content)] = content
        self._done += len(content)
        return len(content)

    def _before_the_cut(self) -> bytes:
        """Returns what a call that reached the cut lost when it failed."""
        self._stream.close()
        self._stream = self._open()
        left = self._done
        while left:
            left -= len(self._stream.read(min(left, 2**20)))
        content = bytearray()
        with contextlib.suppress(OSError):
            while byte := self._stream.read(1):
                content += byte
        return bytes(content)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _check_is_data_file(path: pathlib.Path) -> None:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; check the path.")
    if not path.is_file():
        raise DataError(f"{path}: not a regular file; name a data file.")
    if not path.name.endswith(SUFFIXES):
        raise DataError(
            f"{path}: unknown kind of file; expected one of {', '.join(SUFFIXES)}."
        )


def _unreadable(path: pathlib.Path, error: OSError) -> DataError:
    return DataError(
        f"{path}: cannot be read ({error.strerror or error}); "
        "check the path and its permissions."
    )


def _read_lines(
    stream: io.BufferedIOBase, file: str, after: int
) -> Iterator[Row | BadRow]:
    for number, line in _rows_of(stream, file):
        if number > after:
            yield line if isinstance(line, BadRow) else _parse_line(line, file, number)


def _lines(
    stream: io.BufferedIOBase, file: str
) -> Iterator[tuple[int, bytes | BadRow]]:
    """Yields the lines with their numbers; unusable ones are bad rows."""
    number = 0
    while True:
        number += 1
        try:
            line = stream.readline(MAX_LINE_BYTES + 1)
        except EOFError:
            # The rows before the cut are whole, so they are kept.
            yield number, BadRow(file, number, "", f"truncated {_packing(file)} file")
            return
        if not line:
            return
        if number == 1:
            line = _text_start(line, file)
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            raw = json_text.raw_text(line)
            yield number, BadRow(file, number, "", "line longer than 10 MB", raw)
            _skip_line(stream)
        else:
            yield number, line


def _text_start(content: bytes, file: str) -> bytes:
    """Returns the start of a text without its byte order mark.

    Raises:
      DataError: it is UTF-16 or UTF-32, by its mark or by every other byte.
    """
    marked = content.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" in content[:64]
    halves = content[:8:2], content[1:8:2]
    if marked or (b"\0" * 4 in halves and any(map(any, halves))):
        raise DataError(
            f"{file}: UTF-16 or UTF-32 text; save it as UTF-8, e.g. with "
            "`iconv -f UTF-16 -t UTF-8`."
        )
    return content.removeprefix(json_text.BYTE_ORDER_MARK)


def _rows_of(
    stream: io.BufferedIOBase, file: str
) -> Iterator[tuple[int, bytes | BadRow]]:
    """Yields the lines that are not blank."""
    for number, line in _lines(stream, file):
        if isinstance(line, BadRow) or line.strip(b" \t\r\n"):
            yield number, line


def _skip_line(stream: io.BufferedIOBase) -> None:
    try:
        while (part := stream.readline(MAX_LINE_BYTES)) and not part.endswith(b"\n"):
            pass
    except EOFError:
        return  # reading the next line meets the same end, and reports it


def _parse_line(line: bytes, file: str, number: int) -> Row | BadRow:
    try:
        value = json_text.check_object(json_text.parse(line), b"\\u" in line)
    except json_text.Malformed as error:
        raw = json_text.raw_text(line)
        return BadRow(file, number, error.field, error.reason, raw)
    return Row(value, file, number)


def _read_list(
    stream: io.BufferedIOBase, file: str, after: int
) -> Iterator[Row | BadRow]:
    try:
        content = stream.read(MAX_JSON_BYTES + 1)
    except EOFError as error:
        raise DataError(
            f"{file}: truncated {_packing(file)} file; fetch it again."
        ) from error
    if len(content) > MAX_JSON_BYTES:
        raise DataError(f"{file}: larger than 1 GiB; turn it into a .jsonl file.")
    content = _text_start(content, file)
    if not content.strip():
        return
    try:
        values = json_text.parse(content)
    except json_text.Malformed as error:
        raise DataError(
            f"{file}: no JSON list ({error}); mend it, or name it .jsonl where "
            "it holds one object a line."
        ) from error
    if not isinstance(values, list):
        raise DataError(
            f"{file}: holds one JSON value; expected a list of objects in square "
            "brackets."
        )
    has_escapes = b"\\u" in content
    for number, value in enumerate(values[after:], start=after + 1):
        yield quarantine.checked(value, file, number, has_escapes)


def _read_csv(
    stream: io.BufferedIOBase, file: str, after: int
) -> Iterator[Row | BadRow]:
    return csv_rows.read(_lines(stream, file), file, after)


_READERS = {
    ".jsonl": _read_lines,
    ".json": _read_list,
    ".csv": _read_csv,
    ".parquet": parquet_rows.read,
}

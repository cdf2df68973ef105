"""Folders and files that appear at once: a name that exists is a whole result."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, BinaryIO

from nemojax.errors import UserError

PARTIAL = ".partial"
MAX_TEXT_BYTES = 64 * 2**20


def require_free(directory: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the directory as a path.

    Raises:
      UserError: something is in it.
    """
    path = pathlib.Path(directory).absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists and is not empty")
    return path


@contextlib.contextmanager
def appearing(directory: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields a folder beside `directory` to write in, which takes its name at the end.

    After an error or a crash there is no `directory`; what was written lies in
    `{directory}.partial` until the next attempt, which starts anew.

    Args:
      directory: must not exist, or be empty.

    Raises:
      UserError: as `require_free`.
    """
    path = require_free(directory)
    partial = path.with_name(path.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    if path.exists():
        path.rmdir()
    partial.rename(path)


@contextlib.contextmanager
def replacing(file: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yields a stream beside `file`, which takes its name when on the disk.

    After an error or a crash what was there before is there still.
    """
    path = pathlib.Path(file)
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_file(file: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file by `replacing`; text as UTF-8."""
    with replacing(file) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def sha256(file: str | os.PathLike[str]) -> str:
    """Computes the SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(file: str | os.PathLike[str], value: Any) -> None:
    """Writes a JSON value by `replacing`."""
    write_file(file, json.dumps(value, indent=1) + "\n")


def read_text(file: str | os.PathLike[str], max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Reads a text of bounded size.

    Raises:
      UserError: it cannot be read, is no regular file, too large, or not UTF-8.
    """
    path = pathlib.Path(file)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise UserError(f"{file}: cannot be read: no regular file")
        if size > max_bytes:
            raise UserError(f"{file}: cannot be read: more than {max_bytes:,} bytes")
        return path.read_text("utf-8")
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: cannot be read: not UTF-8") from error


def read_json(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      UserError: the file cannot be read or holds something else.
    """
    text = read_text(file)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{file}: no JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{file}: no JSON: nested too deeply") from error
    if not isinstance(value, dict):
        raise UserError(f"{file}: holds no JSON object")
    return value


def sync(directory: str | os.PathLike[str]) -> None:
    """Waits until the names in a folder are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

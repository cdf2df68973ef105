"""JSON objects that carry their own checksum, so that changed ones are known as such.

One without a checksum, of an earlier version, is taken as it is.
"""

import hashlib
import json
import os
import pathlib
import sys
from typing import Any

from nemojax.errors import UserError
from nemojax.io import folders

_KEY, _DIGITS = "checksum", 16


class Changed(ValueError):
    """Content that is not the one that was written."""


def digest(value: dict[str, Any]) -> str:
    """Computes the SHA-256 of a JSON object, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write(file: str | os.PathLike[str], value: dict[str, Any]) -> None:
    """Writes a JSON object with its checksum by `folders.replacing`."""
    folders.write_json(file, _closed(value))


def read(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the object that `write` wrote, without its checksum.

    Raises:
      UserError: it cannot be read, or is not as it was written; names the file.
    """
    try:
        return _opened(folders.read_json(file))
    except Changed as error:
        raise UserError(f"{file}: {error}: restore it, or make it again") from error


def line(value: dict[str, Any]) -> str:
    """Writes an object as a line with a checksum, which `read_lines` takes off."""
    return json.dumps(_closed(value)) + "\n"


def read_lines(file: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the objects of a file of lines; none where there is no file.

    A torn last line, which a kill leaves, is left out; so is one that is not as it was
    written, and its number is told on stderr.
    """
    path, found = pathlib.Path(file), []
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, content in enumerate(lines, 1):
        if number == len(lines) and not content.endswith(b"\n"):
            break
        try:
            found.append(_opened(dict(json.loads(content))))
        except (ValueError, TypeError) as error:
            reason = error if isinstance(error, Changed) else "no JSON object"
            print(f"{path}, line {number}: left out: {reason}", file=sys.stderr)
    return found


def _closed(value: dict[str, Any]) -> dict[str, Any]:
    value = json.loads(json.dumps(value))  # names and lists as they are read
    return {**value, _KEY: digest(value)[:_DIGITS]}


def _opened(value: dict[str, Any]) -> dict[str, Any]:
    if _KEY in value and value.pop(_KEY) != digest(value)[:_DIGITS]:
        raise Changed("it was changed since it was written")
    return value

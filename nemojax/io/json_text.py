"""JSON objects from bytes nobody has checked, with a reason for each refusal."""

import json
from typing import Any

MAX_RAW_CHARACTERS = 2048
SURROGATE, NOT_UTF8 = "lone surrogate", "not UTF-8"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Malformed(ValueError):
    """Bytes that hold no usable JSON object.

    Attributes:
      field: the field at fault, or "" where the whole text is.
      reason: a short phrase, the same for all texts with the same fault.
    """

    def __init__(self, reason: str, field: str = "") -> None:
        super().__init__(f"field {field!r}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


def parse(content: bytes) -> Any:
    """Parses the JSON value in `content`, less a byte order mark at its start.

    Raises:
      Malformed: NUL byte, not UTF-8, not JSON, or an object with a field twice.
    """
    if b"\0" in content:
        raise Malformed("NUL character")
    try:
        text = content.removeprefix(BYTE_ORDER_MARK).decode("utf-8")
        return _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise Malformed(NOT_UTF8) from error
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in value if names.count(name) > 1)
        raise Malformed("a field comes twice", readable(twice))
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def readable(text: str) -> str:
    """Returns a text of which every character can be written as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def check_object(value: Any, has_escapes: bool) -> dict[str, Any]:
    """Returns `value` as an object whose strings can be tokenized and written again.

    Args:
      value: value that `parse` gave.
      has_escapes: whether the text had an escape `\\u`; without one there is nothing
        to look for, since `parse` lets no lone surrogate or NUL byte through.

    Raises:
      Malformed: not an object, or a string with a NUL or a lone surrogate.
    """
    if not isinstance(value, dict):
        raise Malformed("not an object")
    if has_escapes:
        for field, item in value.items():
            if reason := _unusable_text([field, item]):
                raise Malformed(reason, readable(field))
    return value


def _unusable_text(value: Any) -> str | None:
    pending = [value]  # no recursion: the nesting is as deep as the file makes it
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(item)
            pending.extend(item.values())
        elif isinstance(item, list | tuple):  # of tuples is a map of Parquet
            pending.extend(item)
        elif isinstance(item, str):
            if "\0" in item:
                return "NUL character"
            try:
                item.encode("utf-8")
            except UnicodeEncodeError:
                return SURROGATE
    return None


def raw_text(line: bytes) -> str:
    """Returns the beginning of a line, for a person to look at."""
    return line[:MAX_RAW_CHARACTERS].decode("utf-8", "replace").rstrip("\r\n")


def raw_value(value: Any) -> str:
    """Returns the beginning of a value as JSON, for a person to look at.

    What JSON has no form for, such as a time in a table, is a text there.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, default=str, skipkeys=True)
    except RecursionError:  # parsed just within the limit, a few frames further up
        return ""
    return text[:MAX_RAW_CHARACTERS].encode("utf-8", "replace").decode("utf-8")


def line(value: Any) -> bytes:
    """Writes JSON with a line end.

    Raises:
      ValueError: a number that is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # Of what UTF-8 cannot hold, lone surrogates, Python's escapes are JSON's, too.
    return f"{text}\n".encode("utf-8", "backslashreplace")

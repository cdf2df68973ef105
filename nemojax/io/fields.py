"""Guards on the fields of a row: what is missing, of the wrong type or out of range."""

import math
from typing import Any

Fields = dict[str, Any]


class Cell(str):
    """Text of a table that has no types: may stand for a number, or for nothing."""

    __slots__ = ()


class Reject(Exception):
    """A row that gives no record; becomes a `files.BadRow`.

    Attributes:
      field: the field at fault.
      reason: a short phrase, the same for all rows with the same fault.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"field {field!r}: {reason}")
        self.field = field
        self.reason = reason


def present(row: Fields, name: str) -> Any:
    """Returns the field's value, which may be of any type but not absent."""
    if name not in row:
        raise Reject(name, "missing field")
    return row[name]


def text(row: Fields, name: str) -> str:
    """Returns the field's text, which may be empty."""
    value = present(row, name)
    if not isinstance(value, str):
        raise Reject(name, "wrong type")
    return str(value)  # records hold no cells


def optional_text(row: Fields, name: str) -> str:
    """Returns the field's text, or "" where the field is absent or null."""
    return "" if row.get(name) is None else text(row, name)


def prompt(row: Fields, name: str) -> str:
    """Returns the field's text, which must not be empty."""
    value = text(row, name)
    if not value.strip():
        raise Reject(name, "empty prompt")
    return value


def response(row: Fields, name: str) -> str:
    """Returns the field's text, which must not be empty."""
    value = text(row, name)
    if not value.strip():
        raise Reject(name, "empty response")
    return value


def texts(row: Fields, name: str) -> list[str]:
    """Returns the field's list of texts."""
    value = present(row, name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Reject(name, "wrong type")
    return value


def says_nothing(value: Any) -> bool:
    """Returns whether a value is as good as none.

    So are null, NaN (a gap of a table), blank text, an empty list or object, also as
    JSON text, and an object of nothing else.
    """
    if isinstance(value, dict):
        return all(not isinstance(v, dict) and says_nothing(v) for v in value.values())
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}", "null")
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or value == []


def truth(value: Any) -> bool | None:
    """Returns what a mark says: True, 1 or their texts; False, 0; None otherwise."""
    if isinstance(value, str):
        value = _TRUTHS.get(value.strip().lower())
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None


_TRUTHS = {"true": 1, "1": 1, "1.0": 1, "false": 0, "0": 0, "0.0": 0}


def is_absent(row: Fields, name: str) -> bool:
    """Returns whether the field is absent, null, or an empty cell."""
    value = row.get(name)
    return value is None or (isinstance(value, Cell) and not value.strip())


def number(value: Any, name: str) -> float:
    """Returns `value` as a number, which may be infinite or NaN.

    Text is none, but in a cell it is.
    """
    if isinstance(value, Cell):
        try:
            return float(value)
        except ValueError:
            raise Reject(name, "wrong type") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Reject(name, "wrong type")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def optional_number(row: Fields, name: str, kind: str) -> float | None:
    """Returns the field's finite number; None where it is absent, null or empty.

    `kind` says in messages what it is.
    """
    if is_absent(row, name):
        return None
    value = number(row[name], name)
    if not math.isfinite(value):
        raise Reject(name, f"{kind} not finite")
    return value


def integer(row: Fields, name: str) -> int:
    """Returns the field's integer; tables with gaps write 1 as 1.0."""
    value = number(present(row, name), name)
    if not value.is_integer():
        raise Reject(name, "wrong type")
    return int(value)


def choice(row: Fields, name: str, choices: tuple[int, ...]) -> int:
    """Returns the field's integer, one of `choices`."""
    value = integer(row, name)
    if value not in choices:
        raise Reject(name, "label out of range")
    return value

"""Guards on the fields of a row: what is missing, of the wrong type or out of range."""

import dataclasses
import math
from collections.abc import Callable
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


@dataclasses.dataclass(frozen=True)
class Format:
    """Recogniser and reader of the rows of one published layout.

    Attributes:
      name: short name, shown to the user.
      required: fields whose presence tells this format.
      parse: function that gives the record of a row, or raises `Reject`.
      any_of: fields of which one at least must be there; () for none.
      matches: further condition where the fields alone do not tell.
    """

    name: str
    required: tuple[str, ...]
    parse: Callable[[Fields], Any]
    any_of: tuple[str, ...] = ()
    matches: Callable[[Fields], bool] = lambda row: True

    def recognises(self, row: Fields) -> bool:
        """Returns whether the row has this format's fields."""
        if not all(name in row for name in self.required):
            return False
        if self.any_of and not any(name in row for name in self.any_of):
            return False
        return self.matches(row)

    def __str__(self) -> str:
        """Returns name and fields, for messages."""
        listed = ", ".join(self.required)
        if self.any_of:
            listed += f", one of {' '.join(self.any_of)}"
        return f"{self.name} ({listed})"


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


def choice(row: Fields, name: str, choices: tuple[int, ...]) -> int:
    """Returns the field's integer, one of `choices`."""
    value = present(row, name)
    if isinstance(value, Cell):
        value = _whole(number(value, name))
    if isinstance(value, bool) or not isinstance(value, int):
        raise Reject(name, "wrong type")
    if value not in choices:
        raise Reject(name, "label out of range")
    return value


def _whole(value: float) -> float | int:
    """Returns an integer where a number is one: tables with gaps write 1 as 1.0."""
    return int(value) if value.is_integer() else value

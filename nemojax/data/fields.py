"""Guards on the fields of a row: what is missing, of the wrong type or out of range."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

Fields = dict[str, Any]


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
    """How the rows of one published layout are recognised and read.

    Attributes:
      name: short name, shown to the user.
      required: fields whose presence tells this format.
      parse: gives the record of a row, or raises `Reject`.
      matches: further condition where the fields alone do not tell.
    """

    name: str
    required: tuple[str, ...]
    parse: Callable[[Fields], Any]
    matches: Callable[[Fields], bool] = lambda row: True

    def recognises(self, row: Fields) -> bool:
        """Whether the row has this format's fields."""
        return all(name in row for name in self.required) and self.matches(row)


def present(row: Fields, name: str) -> Any:
    """The field's value, which may be of any type but not absent."""
    if name not in row:
        raise Reject(name, "missing field")
    return row[name]


def text(row: Fields, name: str) -> str:
    """The field's text, which may be empty."""
    value = present(row, name)
    if not isinstance(value, str):
        raise Reject(name, "wrong type")
    return value


def optional_text(row: Fields, name: str) -> str:
    """The field's text, or "" where the field is absent or null."""
    return "" if row.get(name) is None else text(row, name)


def prompt(row: Fields, name: str) -> str:
    """The field's text, with something in it."""
    value = text(row, name)
    if not value.strip():
        raise Reject(name, "empty prompt")
    return value


def response(row: Fields, name: str) -> str:
    """The field's text, with something in it."""
    value = text(row, name)
    if not value.strip():
        raise Reject(name, "empty response")
    return value


def texts(row: Fields, name: str) -> list[str]:
    """The field's list of texts."""
    value = present(row, name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Reject(name, "wrong type")
    return value


def number(value: Any, name: str) -> float:
    """`value` as a number, which may be infinite or NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Reject(name, "wrong type")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def optional_reward(row: Fields, name: str) -> float | None:
    """The field's finite number, or None where the field is absent or null."""
    if row.get(name) is None:
        return None
    value = number(row[name], name)
    if not math.isfinite(value):
        raise Reject(name, "reward not finite")
    return value


def choice(row: Fields, name: str, choices: tuple[int, ...]) -> int:
    """The field's integer, one of `choices`."""
    value = present(row, name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Reject(name, "wrong type")
    if value not in choices:
        raise Reject(name, "label out of range")
    return value

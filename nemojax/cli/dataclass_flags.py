"""Flags `--group.field`, one for each field of a dataclass.

The type and the default are the field's, the help is its line in the `Attributes:` of
the class's docstring, so that neither is written twice.
"""

import dataclasses
import inspect
import re
import types
import typing
from typing import Any

from absl import flags

from nemojax.errors import UserError

FLAGS = flags.FLAGS
_DEFINE = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    str: flags.DEFINE_string,
    tuple: flags.DEFINE_list,
}


def define(group: str, default: Any, *without: str) -> None:
    """Defines the flags of a dataclass.

    Args:
      group: stands before the dot.
      default: an instance, whose values are the defaults; or a class, where all fields
        but `without` have defaults.
      without: fields that get no flag.

    Raises:
      KeyError: a field of another type than int, float, bool, str, a tuple of strings,
        or one of these and None.
    """
    cls = default if isinstance(default, type) else type(default)
    kinds, texts = typing.get_type_hints(cls), field_help(cls)
    for field in dataclasses.fields(cls):
        if field.name in without:
            continue
        value = field.default if default is cls else getattr(default, field.name)
        value = list(value) if isinstance(value, tuple) else value
        text = texts.get(field.name, "")
        _DEFINE[_kind(kinds[field.name])](f"{group}.{field.name}", value, text)


def build(group: str, default: Any) -> Any:
    """Returns an instance with what the command line says of its fields.

    Raises:
      UserError: the class refuses a value; the message begins with the group.
    """
    try:
        return dataclasses.replace(default, **given(group))
    except UserError as error:
        raise UserError(f"--{group}: {error}") from error


def values(group: str) -> dict[str, Any]:
    """Returns the value of each flag of a group by the name of its field."""
    return _read(group, False)


def given(group: str) -> dict[str, Any]:
    """Returns what the command line says of a group by the names of the fields."""
    return _read(group, True)


def field_help(cls: type) -> dict[str, str]:
    """Returns the first sentence of each field in the `Attributes:` of its class."""
    if not dataclasses.is_dataclass(cls):
        return {}
    found = field_help(cls.__base__ or object)
    section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2]
    section = re.split(r"\n(?=\S)", section)[0]
    for names, text in re.findall(
        r"^  (\w[\w, ]*): (.*(?:\n {4}.*)*)", section, re.MULTILINE
    ):
        sentence = re.split(r"\.(?:\s|$)", " ".join(text.split()))[0].replace("`", "")
        if sentence[1:2].islower():  # no abbreviation
            sentence = sentence[0].lower() + sentence[1:]
        found |= dict.fromkeys(names.split(", "), sentence)
    return found


def _kind(hint: Any) -> type:
    """Returns the class of a field's values, without None and what a tuple holds."""
    if isinstance(hint, types.UnionType):
        (hint,) = (kind for kind in hint.__args__ if kind is not types.NoneType)
    return typing.get_origin(hint) or hint


def _read(group: str, given_only: bool) -> dict[str, Any]:
    found = {}
    for name in FLAGS:
        head, dot, field = name.partition(".")
        if dot and head == group and (FLAGS[name].present or not given_only):
            value = FLAGS[name].value
            found[field] = tuple(value) if isinstance(value, list) else value
    return found

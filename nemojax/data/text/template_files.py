"""The chat templates that lie in a checkpoint's folder."""

import pathlib
from typing import Any

from nemojax.errors import UserError
from nemojax.io import folders

DEFAULT, TOOL_USE = "default", "tool_use"
CONFIG = "tokenizer_config.json"
_FILE = "chat_template.jinja"
_OLD_FILE = "chat_template.json"
_OTHERS = "additional_chat_templates"
FILES = (_FILE, _OLD_FILE, f"{_OTHERS}/{TOOL_USE}.jinja")


def read(directory: pathlib.Path) -> dict[str, str]:
    """Returns the chat templates of a checkpoint's folder by name.

    Those in files of their own come before those in `tokenizer_config.json`, where
    there may be one, or several with names; the only one is named "default".

    Raises:
      UserError: a file holds something else there.
    """
    found = {
        path.stem: folders.read_text(path)
        for path in (directory / _OTHERS).glob("*.jinja")
    }
    if (directory / _FILE).is_file():
        found[DEFAULT] = folders.read_text(directory / _FILE)
    for name in (CONFIG, _OLD_FILE):
        path = directory / name
        if not found and path.is_file():
            found = _named(path, folders.read_json(path).get("chat_template"))
    return found


def _named(path: pathlib.Path, value: Any) -> dict[str, str]:
    try:
        if isinstance(value, list):
            value = {entry["name"]: entry["template"] for entry in value}
        value = {DEFAULT: value} if isinstance(value, str) else dict(value or {})
        if all(isinstance(text, str) for pair in value.items() for text in pair):
            return value
    except (KeyError, TypeError, ValueError):
        pass
    raise UserError(f"{path}: chat_template is neither a text nor texts with names")

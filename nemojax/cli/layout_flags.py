"""Flags --parallel.NAME, the same in every script that trains or plans."""

from nemojax.cli import dataclass_flags
from nemojax.parallel.layout import LayoutSpec


def define() -> None:
    """Defines a flag for each field of `LayoutSpec`."""
    dataclass_flags.define("parallel", LayoutSpec())


def chosen() -> LayoutSpec:
    """Returns the layout that the flags say.

    Raises:
      UserError: a value that there is not.
    """
    return dataclass_flags.build("parallel", LayoutSpec())

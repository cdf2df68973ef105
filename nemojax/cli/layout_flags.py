"""The flags --parallel.NAME, the same in every script that trains or plans."""

import dataclasses
from typing import Any

from absl import flags
from ml_collections import config_flags

from nemojax.cli import command
from nemojax.parallel.layout import LayoutSpec


def define() -> None:
    """Defines a flag for each field of `LayoutSpec`."""
    config_flags.DEFINE_config_dataclass(
        "parallel",
        command.settable(LayoutSpec),
        "mesh axes and layout: --parallel.tensor=8 and so on",
    )


def chosen() -> LayoutSpec:
    """Returns the layout that the flags say.

    Raises:
      ValueError: a value that there is not.
    """
    values: Any = flags.FLAGS["parallel"].value
    return LayoutSpec(**dataclasses.asdict(values))

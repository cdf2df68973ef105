"""Flags that the scripts of all stages share, and the settings made of them.

`define(preset)` makes them with the values of a preset; `settings`, `options` and
`data` read them; `train` does what they say.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from absl import flags

from nemojax.cli import (
    cluster,
    command,
    dataclass_flags,
    model_flags,
    option_flags,
)
from nemojax.interop import loading
from nemojax.losses import ATTRIBUTE_WEIGHTS
from nemojax.models.lora import LoraConfig
from nemojax.parallel import processes
from nemojax.recipe.align import run, stage
from nemojax.recipe.align.data_files import DataFiles
from nemojax.recipe.align.run import Job
from nemojax.recipe.align.settings import PREFERENCES, StageSettings
from nemojax.training.objectives import PreferenceConfig

FLAGS = flags.FLAGS
# Fields of `StageSettings` that a flag of their name changes.
_FIELDS = ("batch", "epochs", "length", "seed", "pack", "validate_every")


@dataclasses.dataclass
class Lora:
    """Adapters that are trained in place of the model, see `models.lora`.

    Attributes:
      rank: width of the adapters; 0: the model itself is trained.
      alpha: the adapters' sum is scaled by alpha / rank.
      patterns: shell patterns of the linear layers that are adapted.
    """

    rank: int = 0
    alpha: float = 32.0
    patterns: tuple[str, ...] = ("*",)


def define(preset: StageSettings) -> None:
    """Defines the flags of a script."""
    flags.DEFINE_string("model", None, model_flags.MODEL_HELP, required=True)
    flags.DEFINE_list("data", None, "files and folders to train on", required=True)
    flags.DEFINE_list("held_out", [], "files and folders to measure on")
    flags.DEFINE_float(
        "held_out_share",
        0.0,
        "share of the prompts to measure on, without such",
        0,
        0.9,
    )
    flags.DEFINE_string("workdir", None, "folder of the run", required=True)
    flags.DEFINE_string("template", loading.AUTO, model_flags.TEMPLATE_HELP)
    flags.DEFINE_integer("batch", preset.batch, "examples of a step", 1)
    flags.DEFINE_integer("epochs", preset.epochs, "passes over the examples", 1)
    flags.DEFINE_integer(
        "length", preset.length, "tokens of a row; longer examples are left out", 2
    )
    flags.DEFINE_integer(
        "seed", preset.seed, "seed of the orders, a fresh head and adapters"
    )
    flags.DEFINE_bool("pack", preset.pack, "whether examples share rows")
    dataclass_flags.define("optimizer", preset.optimizer)
    dataclass_flags.define("learning_rate", preset.learning_rate)
    dataclass_flags.define("lora", Lora())
    option_flags.define(checkpoint_every=100)
    if isinstance(preset.preference, PreferenceConfig):
        dataclass_flags.define("preference", preset.preference)
        flags.DEFINE_enum(
            "reference",
            stage.CACHED,
            [stage.CACHED, stage.IN_STEP],
            "log-probs computed before and kept, or with each step",
        )
        flags.DEFINE_string("rewards", None, "scores of the pairs (experiments.score)")
        flags.DEFINE_string(
            "reward_weights",
            "nemotron4_340b",
            f"weights of attributes: {', '.join(ATTRIBUTE_WEIGHTS)}, or five",
        )
        flags.DEFINE_float(
            "min_chosen_reward", None, "leave out pairs whose chosen response has less"
        )
    flags.DEFINE_integer(
        "validate_every",
        preset.validate_every,
        "steps between measures; 0: at the end alone",
        0,
    )
    flags.DEFINE_float(
        "max_bad_fraction", 0.05, "share of the rows that may be malformed", 0, 1
    )
    command.define_json()
    cluster.define()


def train(job: Callable[[], Job]) -> int:
    """Trains what is not trained yet, and tells of it.

    Args:
      job: says what the flags say.

    Raises:
      UserError: something that the user can mend.
    """
    cluster.join()
    found = run.run(job(), option_flags.chosen())
    if processes.is_process_0():
        command.print_result(*found, FLAGS.json)
    return command.SUCCESS


def settings(preset: StageSettings, **changes: Any) -> StageSettings:
    """Returns the preset with the flags that were given.

    Raises:
      UserError: something does not go together.
    """
    low_rank = dataclass_flags.values("lora")
    values: dict[str, Any] = {
        name: FLAGS[name].value for name in _FIELDS if FLAGS[name].present
    }
    for name in ("optimizer", "learning_rate"):
        values[name] = dataclass_flags.build(name, getattr(preset, name))
    if isinstance(preset.preference, PreferenceConfig):
        values["preference"] = _preference(preset.preference)
    if low_rank["rank"]:
        values["lora"] = LoraConfig(**low_rank)
    return dataclasses.replace(preset, **(values | changes))


def _preference(default: PreferenceConfig) -> PreferenceConfig:
    """Returns the loss that is named, with what the flags change."""
    given = dataclass_flags.given("preference")
    if given.get("loss") in PREFERENCES:
        default = PREFERENCES[given.pop("loss")]
    return dataclasses.replace(default, **given)


def data(**more: Any) -> DataFiles:
    """Returns the files that the flags name."""
    return DataFiles(
        FLAGS.data,
        FLAGS.held_out,
        FLAGS.held_out_share,
        max_bad_fraction=FLAGS.max_bad_fraction,
        **more,
    )

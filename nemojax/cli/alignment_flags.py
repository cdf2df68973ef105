"""Flags that the scripts of all stages have, and what they say.

`define(preset)` makes them with the values of a preset; `settings`, `options` and
`data` read them; `train` does what they say.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import config_flags

from nemojax.cli import cluster, command, layout_flags
from nemojax.interop import loading
from nemojax.io.files import DataError
from nemojax.losses import ATTRIBUTE_WEIGHTS
from nemojax.models.lora import LoraConfig
from nemojax.parallel import processes
from nemojax.recipe.align import run, stage
from nemojax.recipe.align.run import Data, Job
from nemojax.recipe.align.settings import PREFERENCES, Settings
from nemojax.training.objectives import PreferenceConfig
from nemojax.training.stage import Options

FLAGS = flags.FLAGS
# Flags and the fields of `Settings` that they change.
_FIELDS = {
    "batch": "batch",
    "epochs": "epochs",
    "sequence_length": "length",
    "seed": "seed",
    "pack": "pack",
    "validate_every": "validate_every",
}


@dataclasses.dataclass
class Lora:
    """`--lora.rank=16` trains adapters; rank 0 trains the model."""

    rank: int = 0
    alpha: float = 32.0
    patterns: tuple[str, ...] = ("*",)


def define(preset: Settings) -> None:
    """Defines the flags of a script."""
    flags.DEFINE_string("model", None, "model folder or Hugging Face checkpoint")
    flags.DEFINE_list("data", [], "files and folders to train on")
    flags.DEFINE_list("held_out", [], "files and folders to measure on")
    flags.DEFINE_float("held_out_share", 0.0, "of the prompts, without such", 0, 0.9)
    flags.DEFINE_string("workdir", None, "folder of the run")
    flags.DEFINE_string(
        "template",
        loading.AUTO,
        f"{loading.AUTO}: the model's own; {', '.join(loading.TEMPLATES)}; a file",
    )
    flags.DEFINE_integer("batch", preset.batch, "examples of a step", 1)
    flags.DEFINE_integer("epochs", preset.epochs, "passes over the examples", 1)
    flags.DEFINE_integer("sequence_length", preset.length, "tokens of a row", 2)
    flags.DEFINE_integer("seed", preset.seed, "of the orders and of what is fresh")
    flags.DEFINE_bool("pack", preset.pack, "examples share rows")
    config_flags.DEFINE_config_dataclass(
        "optimizer",
        command.settable(preset.optimizer),
        "--optimizer.weight_decay=0.01 and so on",
    )
    config_flags.DEFINE_config_dataclass(
        "learning_rate",
        command.settable(preset.learning_rate),
        "--learning_rate.peak=3e-7 and so on",
    )
    config_flags.DEFINE_config_dataclass("lora", Lora(), "--lora.rank=16 and so on")
    layout_flags.define()
    if preset.preference is not None:
        config_flags.DEFINE_config_dataclass(
            "preference",
            command.settable(preset.preference),
            "--preference.beta=1e-3 and so on",
        )
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
            f"of their attributes: {', '.join(ATTRIBUTE_WEIGHTS)}, or five numbers",
        )
        flags.DEFINE_float("min_chosen_reward", None, "leave out pairs with less")
    flags.DEFINE_integer(
        "validate_every", preset.validate_every, "steps; 0: at the end", 0
    )
    flags.DEFINE_integer("checkpoint_every", 100, "steps", lower_bound=1)
    flags.DEFINE_float("checkpoint_minutes", 0.0, "also save after so long", 0)
    flags.DEFINE_float(
        "max_bad_fraction", 0.05, "of the rows that may be malformed", 0, 1
    )
    flags.DEFINE_bool("tensorboard", False, "also write TensorBoard's events")
    flags.DEFINE_string("json", None, "also write the result there; - for stdout")
    cluster.define()
    flags.adopt_module_key_flags(cluster)


def train(job: Callable[[], Job]) -> int:
    """Trains what is not trained yet, and tells of it.

    Args:
      job: says what the flags say.

    Raises:
      DataError: something that the user can mend.
    """
    try:
        cluster.join()
        found = run.run(job(), options())
    except ValueError as error:
        raise DataError(str(error)) from error
    if processes.is_first():
        command.tell(*found, FLAGS.json)
    return command.SUCCESS


def settings(preset: Settings, **changes: Any) -> Settings:
    """The preset with what the flags say.

    Raises:
      ValueError: something does not go together.
    """
    low_rank = FLAGS.lora
    values: dict[str, Any] = {
        field: FLAGS[flag].value
        for flag, field in _FIELDS.items()
        if FLAGS[flag].present
    }
    for name in ("optimizer", "learning_rate"):
        values[name] = dataclasses.replace(getattr(preset, name), **_given(name))
    if preset.preference is not None:
        values["preference"] = _preference(preset.preference)
    if low_rank.rank:
        patterns = tuple(low_rank.patterns)
        values["lora"] = LoraConfig(low_rank.rank, low_rank.alpha, patterns)
    return dataclasses.replace(preset, **(values | changes))


def _preference(default: PreferenceConfig) -> PreferenceConfig:
    """The named loss with its published coefficients, and what the flags change."""
    given = _given("preference")
    if given.get("loss") in PREFERENCES:
        default = PREFERENCES[given.pop("loss")]
    return dataclasses.replace(default, **given)


def _given(name: str) -> dict[str, Any]:
    """What the command line says of a dataclass; only that has a flag."""
    values: Any = FLAGS[name].value
    return {
        key: value
        for key, value in dataclasses.asdict(values).items()
        if f"{name}.{key}" in FLAGS
    }


def options() -> Options:
    """How to run.

    Raises:
      ValueError: sizes that there are no devices for.
    """
    return Options(
        layout_flags.chosen(),
        FLAGS.checkpoint_every,
        FLAGS.checkpoint_minutes,
        FLAGS.tensorboard,
    )


def data(**more: Any) -> Data:
    """The files.

    Raises:
      DataError: a flag is missing.
    """
    for name in ("model", "data", "workdir"):
        if not FLAGS[name].value:
            raise DataError(f"name the {name}: --{name}=...")
    return Data(
        FLAGS.data,
        FLAGS.held_out,
        FLAGS.held_out_share,
        max_bad_fraction=FLAGS.max_bad_fraction,
        **more,
    )

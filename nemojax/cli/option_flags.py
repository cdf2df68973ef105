"""Flags that say how a stage is trained, the same in every script that trains."""

import dataclasses

from absl import flags

from nemojax.cli import layout_flags
from nemojax.training.stage import Options

FLAGS = flags.FLAGS


def define(checkpoint_every: int) -> None:
    """Defines a flag for each field of `Options`, those of the layout included."""
    layout_flags.define()
    flags.DEFINE_integer(
        "checkpoint_every", checkpoint_every, "steps between checkpoints", 1
    )
    flags.DEFINE_float(
        "checkpoint_minutes", 10.0, "also save after so many; 0: never", 0
    )
    flags.DEFINE_float(
        "spike_factor", 0.0, "skip gradients so many times the usual; 0: none", 0
    )
    flags.DEFINE_multi_integer("profile_steps", [], "first and last of a profile")
    flags.DEFINE_float("hang_minutes", 0.0, "end if a step takes longer; 0: never", 0)
    flags.DEFINE_bool("tensorboard", False, "also write TensorBoard's events")


def chosen() -> Options:
    """Builds the options that the flags say.

    Raises:
      UserError: a layout that there is not.
    """
    steps, spec = FLAGS.profile_steps, layout_flags.chosen()
    lora = "lora.rank" in FLAGS and FLAGS["lora.rank"].value
    if lora and not FLAGS["parallel.zero"].present:
        spec = dataclasses.replace(spec, zero=0)  # adapters are too small to be split
    spec.mesh()  # too few devices are told of before there is a folder
    return Options(
        spec,
        FLAGS.checkpoint_every,
        FLAGS.checkpoint_minutes,
        FLAGS.tensorboard,
        FLAGS.spike_factor,
        (steps[0], steps[-1]) if steps else None,
        FLAGS.hang_minutes,
    )

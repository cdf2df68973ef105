"""Supervised fine-tuning, in stages: code first, then everything else.

    python -m experiments.sft --model=BASE --data=code.jsonl --workdir=runs/code
    python -m experiments.sft --preset=general_sft --model=runs/code/sft/model \\
        --data=general.jsonl --replay=code.jsonl --workdir=runs/general

Every assistant turn is trained, user and system turns are not. The files (.jsonl,
.json, .parquet, .csv, compressed or not) hold conversations in any format that
docs/data.md knows; the format that was found is printed. --preset takes the
report's batch, epochs and learning rate; any --optimizer.NAME, --batch, ... changes
one. --replay adds rows of an earlier stage, --replay_share of all (report: 2 %).

Prints a table of the first and the last step and of --held_out, the rows that were
left out by reason, and where the model is. The same command goes on after an
interruption.
"""

import functools

from absl import flags

from nemojax.cli import alignment_flags as common
from nemojax.cli import command
from nemojax.data.batching import examples
from nemojax.recipe.align import run
from nemojax.recipe.align.settings import PRESETS

FLAGS = flags.FLAGS
common.define(PRESETS["code_sft"])
flags.DEFINE_enum(
    "preset", "code_sft", ["code_sft", "general_sft"], "a stage of the report"
)
flags.DEFINE_list("replay", [], "files of an earlier stage")
flags.DEFINE_float(
    "replay_share", 0.02, "share of all examples that are from there", 0, 0.9
)


def job() -> run.Job:
    """Makes the job that the flags describe."""
    preset = PRESETS[FLAGS.preset]
    found = common.data(replay=FLAGS.replay, replay_share=FLAGS.replay_share)
    return run.Job(
        FLAGS.workdir,
        FLAGS.model,
        FLAGS.template,
        [("sft", common.settings(preset))],
        found,
        examples.demonstrations,
    )


if __name__ == "__main__":
    command.start(functools.partial(common.train, job))

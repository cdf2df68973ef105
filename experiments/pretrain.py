"""Pretraining, and continued pretraining, on tokenized text.

    python -m experiments.pretrain --model=nano --data=tokens --workdir=runs/nano \\
        --steps=2000 --batch=16 --length=256
    python -m experiments.pretrain --model=nemotron4_340b \\
        --preset=nemotron4_340b_pretrain --dry_run

--data is a folder that experiments.tokenize wrote. --preset takes a published schedule
(batch ramp, learning rate, change of blend), --schedule.NAME changes one value of it,
and --steps makes it as short as that, in proportion. Run the same command again to go
on after an interruption, on any number of devices and processes: SLURM, Open MPI, Cloud
TPUs and JobSets are recognised, or name the coordinator.

Leaves metrics.jsonl, goodput.jsonl, checkpoints/, curve.png, report.json and model/.
Exit status 0: done, or told to stop and saved; 2: something to mend; 3: diverged.
"""

from typing import Any

from absl import flags

from nemojax.cli import (
    cluster,
    command,
    command_line,
    dataclass_flags,
    layout_flags,
    option_flags,
)
from nemojax.data.pretraining import blends as blending
from nemojax.data.pretraining.token_corpus import TokenCorpus
from nemojax.models import presets
from nemojax.planning import hardware, phases
from nemojax.recipe.pretrain import pretraining
from nemojax.recipe.pretrain import run as running
from nemojax.training import schedule
from nemojax.training.learning_rate import LearningRate
from nemojax.training.optimizer import OptimizerConfig

FLAGS = flags.FLAGS
DEFAULT = schedule.Schedule(16_000, 16, LearningRate(2e-3))

flags.DEFINE_enum("model", "nano", list(presets.PRESETS), "the architecture")
flags.DEFINE_string("data", None, "folder of tokenized text (experiments.tokenize)")
flags.DEFINE_string("workdir", None, "folder of the run")
flags.DEFINE_integer("steps", 0, "length in steps of the last batch; 0: as planned", 0)
flags.DEFINE_enum(
    "preset", None, list(schedule.PRESETS), "schedule; default: the model's, if any"
)
flags.DEFINE_integer("batch", DEFAULT.batch, "sequences of a step, at last", 1)
dataclass_flags.define("schedule", DEFAULT, "batch", "learning_rate")
dataclass_flags.define("learning_rate", DEFAULT.learning_rate)
dataclass_flags.define("optimizer", OptimizerConfig())
option_flags.define(checkpoint_every=500)
flags.DEFINE_list("blend", [], "blend files; two where the schedule changes the blend")
flags.DEFINE_integer("length", 4096, "tokens of a sequence", lower_bound=2)
flags.DEFINE_bool("isolate_documents", False, "documents attend to themselves alone")
flags.DEFINE_string("start", None, "model folder to go on from; default: fresh")
flags.DEFINE_integer("validate_every", 0, "steps between measures; 0: at the end", 0)
flags.DEFINE_integer("validation_rows", 256, "held-out sequences of a class", 1)
flags.DEFINE_float(
    "max_bad_fraction", 0.001, "share of samples with damaged text", 0, 1
)
flags.DEFINE_bool("allow_data_change", False, "whether to resume on other data")
flags.DEFINE_integer("seed", 0, "seed of the parameters and of the order of the data")
flags.DEFINE_bool("dry_run", False, "print the plan and end")
flags.DEFINE_enum(
    "hardware", "h100", list(hardware.HARDWARE), "accelerator that --dry_run is about"
)
command.define_json()
cluster.define()


def settings(vocab_size: int | None = None) -> pretraining.PretrainSettings:
    """Builds the settings that decide what comes out.

    Raises:
      UserError: something does not go together.
    """
    given = dataclass_flags.given("schedule")
    if FLAGS["batch"].present:
        given["batch"] = FLAGS.batch
    wanted = schedule.chosen(
        FLAGS.preset, FLAGS.model, DEFAULT,
        given, dataclass_flags.given("learning_rate"), FLAGS.steps,
    )  # fmt: skip
    return pretraining.PretrainSettings(
        pretraining.model_config(FLAGS.model, vocab_size),
        wanted,
        dataclass_flags.build("optimizer", OptimizerConfig()),
        FLAGS.length,
        FLAGS.seed,
        FLAGS.isolate_documents,
        FLAGS.validate_every,
        FLAGS.validation_rows,
        FLAGS.max_bad_fraction,
    )


def run() -> int:
    """Plans, or trains from where it was."""
    found = plan() if FLAGS.dry_run else train()
    if found is not None:
        command.print_result(*found, FLAGS.json)
    return command.SUCCESS


def plan() -> tuple[dict[str, Any], str]:
    """Returns the run in numbers, without data."""
    wanted = settings()
    found = phases.plan(
        wanted.config, wanted.schedule, wanted.length, layout_flags.chosen(),
        hardware.get(FLAGS.hardware),
    )  # fmt: skip
    return found, phases.text(found)


def train() -> tuple[dict[str, Any], str] | None:
    """Trains and returns the results; None in all processes but the first."""
    command_line.require("data", "workdir")
    cluster.join()
    corpus = TokenCorpus(FLAGS.data)
    wanted = settings(corpus.tokenizer.vocab_size)
    blends = [blending.read(path) for path in FLAGS.blend] or [blending.NEMOTRON]
    return running.run(
        wanted, corpus, blends, FLAGS.workdir, option_flags.chosen(),
        start=FLAGS.start, allow_data_change=FLAGS.allow_data_change,
    )  # fmt: skip


if __name__ == "__main__":
    command.start(run)

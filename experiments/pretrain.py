"""Pretraining, and continued pretraining, on tokenized text.

    python -m experiments.pretrain --model=nano --data=tokens --workdir=runs/nano \
        --steps=2000 --schedule.batch=16 --sequence_length=256
    python -m experiments.pretrain --model=nemotron4_340b \
        --preset=nemotron4_340b_pretrain --dry_run

--data is a folder that experiments.tokenize wrote. --preset takes a published schedule
(batch ramp, learning rate, change of blend), --schedule.NAME changes one value of it,
and --steps makes it as short as that, in proportion. Run the same command again to go
on after an interruption, on any number of devices and processes: SLURM, Open MPI, Cloud
TPUs and JobSets are recognised, or name the coordinator.

Leaves metrics.jsonl, goodput.jsonl, checkpoints/, curve.png, report.json and model/.
Exit status 0: done, or told to stop and saved; 2: something to mend; 3: diverged.
"""

import dataclasses
from typing import Any

from absl import flags
from ml_collections import config_flags

from nemojax.cli import cluster, command, layout_flags
from nemojax.data.pretraining import blends as blending
from nemojax.data.pretraining.token_corpus import TokenCorpus
from nemojax.io.files import DataError
from nemojax.recipe.pretrain import pretraining, report
from nemojax.recipe.pretrain import run as running
from nemojax.training import schedule
from nemojax.training.learning_rate import LearningRate
from nemojax.training.optimizer import OptimizerConfig
from nemojax.training.stage import Options

FLAGS = flags.FLAGS
DEFAULT = schedule.Schedule(16_000, 16, LearningRate(2e-3))


flags.DEFINE_string("model", "nano", "a preset")
flags.DEFINE_string("data", None, "folder of tokenized text")
flags.DEFINE_string("workdir", None, "folder of the run")
flags.DEFINE_integer("steps", 0, "as long as so many steps of the last batch")
flags.DEFINE_string(
    "preset", None, f"{', '.join(schedule.PRESETS)}; default: the model's, if any"
)
SCHEDULE = config_flags.DEFINE_config_dataclass(
    "schedule",
    command.settable(DEFAULT, "learning_rate"),
    "of the run: --schedule.batch=16 and so on",
)
RATE = config_flags.DEFINE_config_dataclass(
    "learning_rate",
    command.settable(DEFAULT.learning_rate),
    "counted in samples: --learning_rate.peak=1e-4 and so on",
)
OPTIMIZER = config_flags.DEFINE_config_dataclass(
    "optimizer",
    command.settable(OptimizerConfig()),
    "--optimizer.weight_decay=0.1 and so on",
)
layout_flags.define()
flags.DEFINE_list("blend", [], "blend file; two where the schedule changes the blend")
flags.DEFINE_integer("sequence_length", 4096, "tokens a sequence", lower_bound=2)
flags.DEFINE_bool("isolate_documents", False, "a document attends to itself alone")
flags.DEFINE_string("start", None, "model folder to go on from; default: fresh")
flags.DEFINE_integer("checkpoint_every", 500, "steps", lower_bound=1)
flags.DEFINE_float("checkpoint_minutes", 0.0, "also save after so long", 0)
flags.DEFINE_integer("validate_every", 0, "steps; 0: at the end alone", lower_bound=0)
flags.DEFINE_integer("validation_rows", 256, "sequences a class", lower_bound=1)
flags.DEFINE_float("spike_factor", 0.0, "skip steps with so long a gradient", 0)
flags.DEFINE_float("max_bad_fraction", 0.001, "of samples with damaged text", 0, 1)
flags.DEFINE_bool("allow_data_change", False, "resume on other data")
flags.DEFINE_multi_integer("profile_steps", [], "first and last of a profile")
flags.DEFINE_float("hang_minutes", 0.0, "end the process if a step takes longer", 0)
flags.DEFINE_bool("tensorboard", False, "also write TensorBoard's events")
flags.DEFINE_integer("seed", 0, "of the parameters and of the order of the data")
flags.DEFINE_bool("dry_run", False, "print the plan and end")
flags.DEFINE_string("json", None, "also write the result there; - for stdout")
cluster.define()
flags.adopt_module_key_flags(cluster)


def settings(vocab_size: int | None = None) -> pretraining.Settings:
    """What decides what comes out.

    Raises:
      ValueError: something does not go together.
    """
    wanted = schedule.chosen(
        FLAGS.preset, FLAGS.model, DEFAULT,
        _given("schedule"), _given("learning_rate"), FLAGS.steps,
    )  # fmt: skip
    return pretraining.Settings(
        pretraining.model_config(FLAGS.model, vocab_size),
        wanted,
        OptimizerConfig(**dataclasses.asdict(OPTIMIZER.value)),
        FLAGS.sequence_length,
        FLAGS.seed,
        FLAGS.isolate_documents,
        FLAGS.validate_every,
        FLAGS.validation_rows,
        FLAGS.max_bad_fraction,
    )


def _given(name: str) -> dict[str, Any]:
    """Gives the fields of a group that are on the command line."""
    values: Any = FLAGS[name].value
    values = dataclasses.asdict(values)  # of what is given alone there are flags
    return {key: value for key, value in values.items() if f"{name}.{key}" in FLAGS}


def options() -> Options:
    """Gives how to train."""
    steps = FLAGS.profile_steps
    return Options(
        layout_flags.chosen(),
        FLAGS.checkpoint_every,
        FLAGS.checkpoint_minutes,
        FLAGS.tensorboard,
        FLAGS.spike_factor,
        (steps[0], steps[-1]) if steps else None,
        FLAGS.hang_minutes,
    )


def run() -> int:
    """Plans, or trains from where it was."""
    try:
        found = plan() if FLAGS.dry_run else train()
    except ValueError as error:
        raise DataError(str(error)) from error
    if found is not None:
        command.tell(*found, FLAGS.json)
    return command.SUCCESS


def plan() -> tuple[dict[str, Any], str]:
    """The run in numbers, without data."""
    wanted = settings()
    found = report.plan(wanted.config, wanted.schedule, wanted.length)
    return found, report.plan_text(found)


def train() -> tuple[dict[str, Any], str] | None:
    """What came out; None in all processes but the first."""
    for name in ("data", "workdir"):
        if not FLAGS[name].value:
            raise DataError(f"name the {name}: --{name}=FOLDER")
    cluster.join()
    corpus = TokenCorpus(FLAGS.data)
    wanted = settings(corpus.tokenizer.vocab_size)
    blends = [blending.read(path) for path in FLAGS.blend] or [blending.NEMOTRON]
    return running.run(
        wanted, corpus, blends, FLAGS.workdir, options(),
        start=FLAGS.start, allow_data_change=FLAGS.allow_data_change,
    )  # fmt: skip


if __name__ == "__main__":
    command.start(run)

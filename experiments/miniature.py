"""The whole recipe in miniature, with nothing to download.

    python -m experiments.miniature --workdir=runs/miniature

Pretraining, reward model, synthetic data, code SFT, general SFT, DPO, three rounds of
RPO, evaluation and control rows, on an embedded toy world whose tasks are checked by
programs. Takes about nine minutes on 2 CPU cores; `--quick` runs every stage in a few
minutes to show that it works.

Prints a progress line per stage, then a table of the stages like Table 6 of the
Nemotron-4 340B report. Writes `report.html`, `report.json` and `stages.png` to the
work folder. Run again after an interruption, it continues where it was; what the
table does and does not show is in `docs/miniature.md`.
"""

import dataclasses

import jax
from absl import flags

from nemojax.cli import command
from nemojax.io.workdir import Workdir
from nemojax.parallel import layout
from nemojax.parallel.layout import LayoutSpec
from nemojax.recipe.miniature import recipe as miniature
from nemojax.recipe.miniature import report as reporting
from nemojax.recipe.miniature import settings as sizes
from nemojax.reporting import report as reports
from nemojax.reporting import tables
from nemojax.tasks.miniature import teachers
from nemojax.training.stage import Options

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", "runs/miniature", "folder of the run")
flags.DEFINE_integer("seed", 0, "seed of everything random", lower_bound=0)
flags.DEFINE_bool("quick", False, "every stage, small: a few minutes")
flags.DEFINE_enum(
    "teacher", "random", teachers.ERRORS, "kind of errors of the scripted teacher"
)
flags.DEFINE_bool(
    "controls", False, "also train the rows without a filter or a preference loss"
)
command.define_json()


def run() -> int:
    """Runs or continues the recipe and writes its report."""
    make = sizes.quick if FLAGS.quick else sizes.MiniatureSettings
    settings = make(FLAGS.seed, FLAGS.teacher)
    settings = dataclasses.replace(settings, controls=FLAGS.controls)
    workdir = Workdir(FLAGS.workdir, dataclasses.asdict(settings))
    spec = LayoutSpec(data=min(2, jax.device_count()), **layout.WHOLE)
    options = Options(spec, checkpoint_every=1000)
    recipe = miniature.MiniatureRecipe(workdir, options, settings)
    stages = recipe.run()
    report = reporting.build(settings, stages, recipe.tasks)
    files = reports.write_report(workdir.path, report)
    seconds = tables.duration(sum(report["times"].values()))
    text = (
        f"\n{reporting.terminal_table(report)}\n\n{len(report['stages'])} models, "
        f"trained and evaluated in {seconds}: {files.html}"
    )
    command.print_result(report, text, FLAGS.json)
    workdir.close()
    return command.SUCCESS


if __name__ == "__main__":
    command.start(run)

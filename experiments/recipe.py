"""The whole recipe on your own text, conversations and preference pairs.

    python -m experiments.recipe --data=DATA --workdir=runs/recipe

trains a tokenizer and a small model (3 million parameters) on the files in DATA, whose
layout `data/pretraining/corpus.py` describes: pretraining on a 70/15/15 blend, a
Bradley-Terry reward model, code SFT, general SFT, DPO, RPO. After each stage it
measures bits per byte, SFT loss and preference accuracy on held-out rows.

Prints progress on stderr, then a table of the stages and one line that says what was
made and where. `--quick` runs every stage, small.
Run again, the same command continues an interrupted run.

The work folder gets `report.html`, `report.json`, `rejects.jsonl` (rows that could
not be used, with the reasons) and a folder for each stage, whose `model` every other
command opens.
"""

import pathlib
import sys

import jax
from absl import flags

from nemojax.cli import command
from nemojax.io import workdir as workdirs
from nemojax.io.files import DataError
from nemojax.io.workdir import Workdir
from nemojax.parallel import layout
from nemojax.parallel.layout import LayoutSpec
from nemojax.recipe.folder import dataset as reading
from nemojax.recipe.folder import recipe as folders
from nemojax.recipe.folder import report as reporting
from nemojax.recipe.folder import settings as sizes
from nemojax.reporting import tables
from nemojax.training.stage import Options

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "folder of the data files", required=True)
flags.DEFINE_string("workdir", "runs/recipe", "folder of the run; resumes if not empty")
flags.DEFINE_integer("seed", 0, "seed of the weights and of all orders")
flags.DEFINE_bool("quick", False, "small sizes: shows that every stage works")
command.define_json()


def run_recipe(
    data: str,
    workdir: str,
    settings: sizes.FolderSettings,
    json_path: str | None = None,
) -> int:
    """Runs what is not finished and reports; returns the exit status."""
    json_file = None if json_path in (None, "-") else pathlib.Path(json_path)
    if json_file is not None and not json_file.parent.is_dir():
        raise DataError(f"{json_file}: there is no such folder to write --json to")
    dataset = reading.read(data, settings)
    configuration = {
        "recipe": "real",
        **settings.configuration(),
        **dataset.data_files,
    }
    folder = Workdir(workdir, configuration)
    try:
        dataset.quarantine.write(folder.path / "rejects.jsonl")
        spec = LayoutSpec(data=min(2, jax.device_count()), **layout.WHOLE)
        options = Options(spec, checkpoint_every=200)
        recipe = folders.FolderRecipe(
            folder, options, settings, pathlib.Path(data), dataset, _report_stage
        )
        stages = recipe.run()
        report = reporting.build(
            settings, stages, dataset.data_files, dataset.quarantine.counts
        )
        with workdirs.in_stage("report"):
            reporting.write(folder.path, report)
            command.print_result(report, _text(report, folder.path), json_path)
    finally:
        folder.close()
    return command.SUCCESS


def _report_stage(stage) -> None:
    time = tables.duration(stage.seconds)
    print(f"{stage.name} is finished ({time})", file=sys.stderr, flush=True)


def _text(report, folder: pathlib.Path) -> str:
    final = report["final"]
    return (
        f"\n{reporting.text(report)}\n\n"
        f"Made a policy of {final['parameters']:,} parameters in "
        f"{tables.duration(report['seconds'])}: {folder / final['stage'] / 'model'}; "
        f"report: {folder / 'report.html'}; rows quarantined: "
        f"{report['quarantine']['rows']} ({folder / 'rejects.jsonl'})"
    )


def _main() -> int:
    settings = (sizes.quick if FLAGS.quick else sizes.FolderSettings)(seed=FLAGS.seed)
    return run_recipe(FLAGS.data, FLAGS.workdir, settings, FLAGS.json)


if __name__ == "__main__":
    command.start(_main)

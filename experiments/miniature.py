"""The whole recipe in miniature, with nothing to download.

    python -m experiments.miniature --workdir=runs/miniature

Pretraining, reward model, synthetic data, code SFT, general SFT, DPO, three rounds of
RPO, evaluation and control rows, on an embedded toy world whose tasks are checked by
programs. Takes about 11 minutes on 2 free CPU cores; `--quick` runs every
stage in about 2 minutes to show that it works.

Prints a progress line per stage, then a table of the stages like Table 6 of the
Nemotron-4 340B report. Writes `report.html`, `report.json` and `stages.png` to the
work folder. Run again after an interruption, it continues where it was; what the
table does and does not show is in `docs/recipe.md`.
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax
from absl import flags

from nemojax.cli import command
from nemojax.io.workdir import Workdir
from nemojax.parallel import mesh as meshes
from nemojax.recipe.miniature import recipe as miniature
from nemojax.recipe.miniature import report as reporting
from nemojax.recipe.miniature import settings as sizes
from nemojax.reporting import report as reports
from nemojax.reporting import tables
from nemojax.tasks.miniature import teachers

_WORKDIR = flags.DEFINE_string("workdir", "runs/miniature", "Folder of the run.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of everything random.", lower_bound=0)
_QUICK = flags.DEFINE_bool("quick", False, "Every stage, small: about 2 minutes.")
_TEACHER = flags.DEFINE_enum(
    "teacher", "random", teachers.ERRORS, "Kind of errors of the scripted teacher."
)
_CONTROLS = flags.DEFINE_bool(
    "controls",
    True,
    "Also train the control rows: unfiltered teacher, no preference loss.",
)
_JSON = flags.DEFINE_string(
    "json", None, "Also write the report's JSON to this file, or to stdout for '-'."
)


def run() -> int:
    """Runs or continues the recipe and writes its report."""
    if _QUICK.value:
        settings = sizes.quick(_SEED.value, _TEACHER.value)
    else:
        settings = sizes.Settings(_SEED.value, _TEACHER.value)
    settings = dataclasses.replace(settings, controls=_CONTROLS.value)
    workdir = Workdir(_WORKDIR.value, dataclasses.asdict(settings))
    mesh = meshes.make_mesh(data=min(2, jax.device_count()))
    recipe = miniature.Recipe(settings, workdir, mesh)
    stages = recipe.run()
    report = reporting.build(settings, stages, recipe.tasks)
    files = reports.write_report(workdir.path, report)
    if _JSON.value == "-":
        json.dump(report, sys.stdout, indent=1)
        print()
    elif _JSON.value:
        Path(_JSON.value).write_text(json.dumps(report, indent=1) + "\n")
    quiet = _JSON.value == "-"
    print("", reporting.terminal_table(report), "", sep="\n",
          file=sys.stderr if quiet else sys.stdout)  # fmt: skip
    seconds = tables.duration(sum(report["times"].values()))
    print(
        f"{len(report['stages'])} models, trained and evaluated in {seconds}: "
        f"{files.html}",
        file=sys.stderr if quiet else sys.stdout,
    )
    workdir.close()
    return 0


if __name__ == "__main__":
    command.start(run)

"""Several seeds of the miniature recipe in one table: floors, goals, stages.

    python -m experiments.miniature_table runs/seed-*/report.json > docs/table.md

Prints Markdown: the mean of each stage over the runs with its 95 % t-interval, every
floor with the worst run, every goal with mean, interval and verdict, and the final
model's parameter hashes. Reads only the reports; takes a second.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from nemojax.cli import command
from nemojax.errors import UserError
from nemojax.recipe.miniature import checks
from nemojax.recipe.miniature.checks import FLOORS, GOALS, Check
from nemojax.reporting import statistics, tables

FLAGS = flags.FLAGS
command.define_json()
FAMILIES = ("math", "code", "instruction", "instruction_checks", "facts")


def stage_table(reports: Sequence[Mapping[str, Any]]) -> tables.Table:
    """Tabulates mean and interval over runs, by stage and family and of the mean."""
    rows = []
    sides = [("Teacher", [report["teacher"] for report in reports])]
    for index, stage in enumerate(reports[0]["stages"]):
        sides.append((stage["name"], [report["stages"][index] for report in reports]))
    for name, stages in sides:
        cells = []
        for family in FAMILIES:
            values = [stage["metrics"][family]["value"] for stage in stages]
            cells.append(cell(values))
        three = [
            checks.mean_of_three(
                {key: value["value"] for key, value in stage["metrics"].items()}
            )
            for stage in stages
        ]
        rows.append((name, *cells, cell(three)))
    header = ("stage", *map(tables.label, FAMILIES), "mean of three")
    return tables.Table(header, tuple(rows))


def floor_table(found: Sequence[Mapping[str, float]]) -> tables.Table:
    """Tabulates each floor with the value of the worst run."""
    rows = []
    for check in FLOORS:
        worst = min(run[check.name] for run in found)
        held = "holds" if worst >= check.threshold else "DOES NOT HOLD"
        wanted = number(check, check.threshold)
        rows.append((check.text, wanted, number(check, worst), held))
    return tables.Table(("floor", "at least", "worst run", "verdict"), tuple(rows))


def goal_table(found: Sequence[Mapping[str, float]]) -> tables.Table:
    """Tabulates each goal with its mean over the runs, the interval and the verdict.

    Reached is a goal whose whole interval lies above what is wanted.
    """
    rows = []
    for check in GOALS:
        values = [run[check.name] for run in found if check.name in run]
        if not values:
            continue
        mean = statistics.mean(values)
        low, high = mean.interval or (mean.value, mean.value)
        reached = low > check.threshold
        wanted = f"> {number(check, check.threshold)}"
        interval = f"{number(check, low)} .. {number(check, high)}"
        verdict = "reached" if reached else "not reached"
        rows.append((check.text, wanted, number(check, mean.value), interval, verdict))
    header = ("goal", "wanted", "mean", "95 % interval", "verdict")
    return tables.Table(header, tuple(rows))


def cell(values: Sequence[float]) -> str:
    """Formats `61.4 ±3.0`: mean and half of the t-interval over runs, in percent."""
    mean = statistics.mean(values)
    if mean.interval is None:
        return tables.percent(mean.value)
    half = (mean.interval[1] - mean.interval[0]) / 2
    return f"{tables.percent(mean.value)} ±{tables.percent(half)}"


def number(check: Check, value: float) -> str:
    """Formats a share or a difference in percent."""
    return tables.percent(value, signed=check.unit == "difference")


def read(path: str) -> dict[str, Any]:
    """Reads a report.

    Raises:
      UserError: it is none.
    """
    try:
        report = json.loads(Path(path).read_text())
        checks.quantities(report)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: no report of experiments.miniature") from error
    return report


def run(paths: list[str]) -> int:
    """Reads the reports named on the command line and prints the tables."""
    if not paths:
        raise UserError("name the report.json of one run or more")
    reports = [read(path) for path in paths]
    found = [checks.quantities(report) for report in reports]
    seeds = [str(report["settings"]["seed"]) for report in reports]
    shown = [stage_table(reports), floor_table(found), goal_table(found)]
    lines = [f"{len(reports)} runs, seeds {', '.join(seeds)}.\n"]
    lines += [f"{table.to_markdown()} \n" for table in shown]
    for report in reports:
        total = sum(report["times"].values())
        last = list(report["parameters_sha256"].items())[-1]
        lines.append(
            f"- seed {report['settings']['seed']}: {tables.duration(total)}, "
            f"{last[0]} {last[1][:16]}"
        )
    names = ("stages", "floors", "goals")
    result = {
        name: [dict(zip(table.header, row, strict=True)) for row in table.rows]
        for name, table in zip(names, shown, strict=True)
    }
    command.print_result(result, "\n".join(lines), FLAGS.json)
    return command.SUCCESS


if __name__ == "__main__":
    command.start(run, arguments=True)

"""The stage plot of a run as a PNG, for a README or a mail.

Figures are built on the Agg canvas without pyplot, whose global state is not safe in
threads and may look for a display.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nemojax.reporting import tables

INK, MUTED, GRID = "#1b2130", "#6b7385", "#e6e8ee"
STAGE, CONTROL, TEACHER = "#3a5bd9", "#8a92a6", "#c77d0a"


def stage_figure(report: Mapping[str, Any]) -> Figure:
    """One panel a task family: every stage's share with its interval.

    The teacher is a dashed line, controls are hollow.

    Args:
      report: as `report.write_report` takes it.
    """
    families = tables.families(report)
    columns = 2 if len(families) == 4 else min(3, len(families))
    rows = math.ceil(len(families) / columns)
    height = 0.9 + 0.22 * len(report["stages"])
    figure = Figure(figsize=(1.2 + 3.4 * columns, rows * height + 0.7), dpi=144)
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for index, axes in enumerate(grid.flat):
        if index < len(families):
            _draw_family(axes, report, families[index])
        else:
            axes.set_axis_off()
    figure.suptitle(report["title"], x=0.01, ha="left", color=INK, fontsize=12)
    figure.supxlabel(
        "percent solved, 95 % intervals; dashed: teacher; hollow: controls",
        color=MUTED,
        fontsize=8,
    )
    figure.set_layout_engine("constrained", wspace=0.06, hspace=0.06)
    return figure


def write_stage_plot(path: str | os.PathLike[str], report: Mapping[str, Any]) -> None:
    """Writes `stage_figure` as a PNG; equal reports give equal files."""
    stage_figure(report).savefig(path, format="png", metadata={"Software": None})


def _draw_family(axes: Axes, report: Mapping[str, Any], family: str) -> None:
    stages: Sequence[Mapping[str, Any]] = report["stages"]
    for position, stage in enumerate(stages):
        cell = stage["metrics"].get(family)
        if cell is None:
            continue
        color = CONTROL if stage.get("control") else STAGE
        value = 100 * cell["value"]
        low, high = (
            100 * bound for bound in cell.get("interval") or [cell["value"]] * 2
        )
        axes.plot([low, high], [position] * 2, color=color, linewidth=1.6, alpha=0.6)
        axes.plot(
            value,
            position,
            marker="o",
            markersize=5.5,
            color=color,
            markerfacecolor="white" if stage.get("control") else color,
        )
    teacher = report["teacher"]["metrics"].get(family)
    if teacher is not None:
        axes.axvline(
            100 * teacher["value"], color=TEACHER, linewidth=1.2, linestyle="--"
        )
    axes.set_yticks(range(len(stages)), [_plain(stage["name"]) for stage in stages])
    axes.set_ylim(len(stages) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_title(_plain(tables.label(family)), fontsize=10, color=INK, loc="left")
    axes.tick_params(labelsize=8, colors=MUTED, length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _plain(text: str) -> str:
    """Text that matplotlib does not read as a formula."""
    return text.replace("$", r"\$")

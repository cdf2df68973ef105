"""Plots in one style: PNG for files, SVG for pages.

Figures are built without pyplot, whose global state is not safe in threads, may look
for a display, and would switch off the plots of a notebook.
"""

import html
import io
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from nemojax.io import folders
from nemojax.reporting import tables

INK, MUTED, GRID = "#1b2130", "#6b7385", "#e6e8ee"
# Colours of marks by kind; the plain look is a stage of the recipe.
COLORS = {"stage": "#3a5bd9", "control": "#8a92a6", "teacher": "#c77d0a"}
COLORS["chance"] = MUTED
CURVE_POINTS = 180
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line", "#ffffff": "card"} | {
    color: name for name, color in COLORS.items() if color != MUTED
}
# What a file format would date or sign.
_UNDATED = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
_UNDATED["svg"] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.titlesize": 12,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "nemojax",
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name begins no formula
    "xtick.color": MUTED,
    "xtick.labelsize": 8,
    "xtick.major.size": 0,
    "ytick.color": MUTED,
    "ytick.labelsize": 8,
    "ytick.major.size": 0,
}
# Decorates functions that draw, and holds while they do.
styled = matplotlib.rc_context(_STYLE)


@dataclass(frozen=True)
class Line:
    """A row of a plot of intervals: a label, and cells with the kind of each mark.

    A cell is `{"value", "n", "interval"}`, a kind one of `COLORS`.
    """

    label: str
    cells: Sequence[tuple[Mapping[str, Any], str]]


@dataclass(frozen=True)
class Reference:
    """A share to compare with; `kind` is one of `COLORS`."""

    value: float
    kind: str


@styled
def grid(
    rows: int, columns: int, width: float, height: float, **options: Any
) -> tuple[Figure, np.ndarray]:
    """Makes a figure of rows x columns panels; sizes in inches, options of `subplots`.

    Returns:
      The figure and its axes, an array [rows, columns].
    """
    figure = Figure(figsize=(width, height), dpi=144, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


@styled
def write(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure in the format of the name's ending; equal ones are equal bytes.

    The file is whole when it appears.
    """
    kind = pathlib.Path(path).suffix[1:]
    with folders.replacing(path) as stream:
        figure.savefig(stream, format=kind, metadata=_UNDATED.get(kind))


@styled
def svg(figure: Figure, label: str) -> str:
    """Returns a figure as an element of a page, whose colours it takes.

    Args:
      figure: figure to draw.
      label: text that says what it shows, for those who cannot see it.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata=_UNDATED["svg"], transparent=True)
    text = stream.getvalue()
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    text = text[text.index(">", box.end()) + 1 :]
    # Ids of groups would be there once a figure; style and fonts are the page's.
    text = re.sub(
        r'(?<=<g) id="[^"]*"|<style.*?</style>| font-family: [^;"]*;', "", text
    )
    for color, name in _VARIABLES.items():
        text = text.replace(f": {color}", f": var(--{name})")
    label = html.escape(label)
    return f'<svg viewBox="{box[1]}" role="img" aria-label="{label}">{text}'


def bounds(cell: Mapping[str, Any]) -> list[float]:
    """Returns an estimate's value and the ends of its interval, in order."""
    return sorted([cell["value"], *(cell.get("interval") or [cell["value"]])])


@styled
def intervals(
    axes: Axes,
    lines: Sequence[Line],
    reference: Reference | None = None,
    include: Sequence[float] = (),
) -> None:
    """Draws shares with their intervals in percent, one row a line.

    Controls are hollow; a reference is a dashed line across all rows.

    Args:
      axes: axes to draw on.
      lines: lines from top to bottom.
      reference: a share to compare with.
      include: shares that the axis must hold, so that panels can share one axis.
    """
    for position, line in enumerate(lines):
        for cell, kind in line.cells:
            color, value = COLORS[kind], 100 * cell["value"]
            low, *_, high = (100 * bound for bound in bounds(cell))
            axes.plot([low, high], [position] * 2, color=color, alpha=0.6)
            face = "#ffffff" if kind == "control" else color
            axes.plot(value, position, "o", color=color, markerfacecolor=face)
    if reference is not None:
        color = COLORS[reference.kind]
        axes.axvline(100 * reference.value, color=color, linewidth=1.2, linestyle="--")
    axes.set_yticks(range(len(lines)), [_short(line.label) for line in lines])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.update_datalim([(100 * share, 0) for share in include])
    axes.autoscale_view(scaley=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(False, axis="y")


def _short(label: str) -> str:
    return label if len(label) <= 24 else f"{label[:23].rstrip()}…"


@styled
def interval_svg(
    title: str,
    lines: Sequence[Line],
    reference: Reference | None = None,
    include: Sequence[float] = (),
) -> str:
    """Draws `intervals` for a page."""
    figure, axes = grid(1, 1, 3.75, 0.45 + 0.25 * len(lines))
    intervals(axes[0, 0], lines, reference, include)
    return svg(figure, title or "Shares with 95 % intervals")


@styled
def curve_svg(title: str, points: Sequence[Mapping[str, Any]]) -> str | None:
    """Draws `loss` against `step` and its running mean; None without a finite loss."""
    known = [(p["step"], p["loss"]) for p in points if p.get("loss") is not None]
    if not known:
        return None
    steps, losses = _thinned(np.array(known, float))
    figure, axes = grid(1, 1, 3.75, 1.8)
    (panel,) = axes.flat
    panel.plot(steps, losses, color=COLORS["stage"], linewidth=0.8, alpha=0.35)
    panel.plot(steps, running_mean(losses), color=COLORS["stage"], linewidth=1.6)
    panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    return svg(figure, f"Loss of {title} against steps")


def _thinned(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns at most `CURVE_POINTS` steps, means of equally many neighbours."""
    size = math.ceil(len(points) / CURVE_POINTS)
    starts = np.arange(0, len(points), size)
    counts = np.diff(starts, append=len(points))
    return points[starts + counts - 1, 0], np.add.reduceat(
        points[:, 1], starts
    ) / counts


def running_mean(values: np.ndarray, window_share: float = 0.06) -> np.ndarray:
    """Returns centred means over a share of the values, narrower towards both ends."""
    index = np.arange(len(values))
    half = np.minimum(index, index[::-1]).clip(max=int(window_share * len(values) / 2))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)


def stage_lines(report: Mapping[str, Any], family: str) -> list[Line]:
    """Returns every stage's share of a task family; stages without one keep a row."""
    lines = []
    for stage in report["stages"]:
        kind = "control" if stage.get("control") else "stage"
        cell = stage["metrics"].get(family)
        lines.append(Line(stage["name"], [] if cell is None else [(cell, kind)]))
    return lines


def teacher_reference(report: Mapping[str, Any], family: str) -> Reference | None:
    """Returns the teacher's share of a task family, if it has one."""
    cell = report["teacher"]["metrics"].get(family)
    return None if cell is None else Reference(cell["value"], "teacher")


@styled
def stage_figure(report: Mapping[str, Any]) -> Figure:
    """Plots every stage's share with its interval, one panel a task family.

    The teacher is a dashed line, controls are hollow.

    Args:
      report: report as `report.write_report` takes it.
    """
    families = tables.families(report)
    columns = 2 if len(families) == 4 else min(3, len(families))
    rows = math.ceil(len(families) / columns)
    height = rows * (0.9 + 0.22 * len(report["stages"])) + 0.7
    figure, panels = grid(rows, columns, 1.2 + 3.4 * columns, height, sharey=True)
    for axes, family in zip(panels.flat, families, strict=False):
        intervals(axes, stage_lines(report, family), teacher_reference(report, family))
        axes.set_title(tables.label(family))
    for axes in panels.flat[len(families) :]:
        axes.set_axis_off()
    figure.suptitle(report["title"], x=0.01, ha="left")
    note = "percent solved, 95 % intervals; dashed: teacher; hollow: controls"
    figure.supxlabel(note, color=MUTED, fontsize=8)
    return figure

"""Geometry of the report page's charts: numbers in, coordinates out.

The template draws what is computed here as inline SVG, so that charts follow the
page's light and dark colours, stay sharp and need no script. All coordinates are in
the units of the SVG's own view box, y downwards.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nemojax.reporting import tables

WIDTH = 360
LEFT = 128
RIGHT = 16
ROW = 24
TOP = 10
AXIS = 26
LABEL_CHARACTERS = 17

CURVE_HEIGHT = 170
CURVE_LEFT = 40
CURVE_POINTS = 180


@dataclass(frozen=True)
class Tick:
    """A grid line with its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A point with its interval; `kind` (stage, control, teacher) sets its look."""

    x: float
    low: float
    high: float
    kind: str
    tooltip: str


@dataclass(frozen=True)
class PanelRow:
    """One line of an interval panel."""

    label: str
    full_label: str
    y: float
    kind: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class IntervalPanel:
    """Points with intervals, one row a label, over a common percent axis."""

    title: str
    width: float
    height: float
    left: float
    right: float
    bottom: float
    ticks: tuple[Tick, ...]
    reference: "Reference | None"
    reference_at: float | None
    rows: tuple[PanelRow, ...]


@dataclass(frozen=True)
class CurvePanel:
    """A loss against steps: the measured values and their running mean."""

    title: str
    last: str
    width: float
    height: float
    left: float
    right: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    raw: str
    smooth: str
    end: tuple[float, float]


@dataclass(frozen=True)
class Line:
    """The input of one row: a label and cells with the kind of mark for each."""

    label: str
    cells: Sequence[tuple[Mapping[str, Any], str]]
    kind: str = "stage"


@dataclass(frozen=True)
class Reference:
    """A share to compare with; `kind` (teacher, chance) sets its look."""

    value: float
    label: str
    kind: str


def interval_panel(
    title: str,
    lines: Sequence[Line],
    reference: Reference | None = None,
    include: Sequence[float] = (),
) -> IntervalPanel:
    """Lays out shares with their intervals.

    Args:
      title: above the panel.
      lines: at least one, each with `{"value", "n", "interval"}` cells.
      reference: a share to compare with, drawn as a line across all rows.
      include: shares that the axis must hold, so that panels can share one axis.

    Raises:
      ValueError: no value to draw.
    """
    cells = [cell for line in lines for cell, _ in line.cells]
    if not cells:
        raise ValueError(f"panel {title!r} has no values")
    bounds = [*include, *(bound for cell in cells for bound in cell_bounds(cell))]
    if reference is not None:
        bounds.append(reference.value)
    ticks = _nice_ticks(100 * min(bounds), 100 * max(bounds), 4)
    right = WIDTH - RIGHT

    def place(share: float) -> float:
        span = (100 * share - ticks[0]) / (ticks[-1] - ticks[0])
        return round(LEFT + span * (right - LEFT), 2)

    bottom = TOP + ROW * len(lines)
    return IntervalPanel(
        title=title,
        width=WIDTH,
        height=bottom + AXIS,
        left=LEFT,
        right=right,
        bottom=bottom,
        ticks=tuple(Tick(place(tick / 100), _number(tick)) for tick in ticks),
        reference=reference,
        reference_at=None if reference is None else place(reference.value),
        rows=tuple(
            _panel_row(line, TOP + ROW * (index + 0.5), place)
            for index, line in enumerate(lines)
        ),
    )


def curve_panel(title: str, points: Sequence[Mapping[str, Any]]) -> CurvePanel | None:
    """Lays out `loss` against `step`; None where no point has a finite loss."""
    known = [
        (float(point["step"]), float(point["loss"]))
        for point in points
        if point.get("loss") is not None
    ]
    if not known:
        return None
    known = _bucket_means(known, CURVE_POINTS)
    smooth = _running_mean([loss for _, loss in known])
    losses = [loss for _, loss in known]
    y_ticks = _nice_ticks(min(losses), max(losses), 4)
    x_ticks = _nice_ticks(0, max(step for step, _ in known), 4, cover=False)
    last_step = max(x_ticks[-1], known[-1][0])
    right, bottom = WIDTH - RIGHT, CURVE_HEIGHT - AXIS

    def place_x(step: float) -> float:
        return round(CURVE_LEFT + step / (last_step or 1) * (right - CURVE_LEFT), 2)

    def place_y(loss: float) -> float:
        span = (loss - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return round(bottom - span * (bottom - TOP), 2)

    xs = [place_x(step) for step, _ in known]
    return CurvePanel(
        title=title,
        last=f"{smooth[-1]:.3g}",
        width=WIDTH,
        height=CURVE_HEIGHT,
        left=CURVE_LEFT,
        right=right,
        bottom=bottom,
        x_ticks=tuple(Tick(place_x(tick), _number(tick)) for tick in x_ticks),
        y_ticks=tuple(Tick(place_y(tick), _number(tick)) for tick in y_ticks),
        raw=_path(xs, [place_y(loss) for loss in losses]),
        smooth=_path(xs, [place_y(loss) for loss in smooth]),
        end=(xs[-1], place_y(smooth[-1])),
    )


def _panel_row(line: Line, y: float, place: Any) -> PanelRow:
    marks = tuple(
        Mark(
            x=place(cell["value"]),
            low=place(cell_bounds(cell)[0]),
            high=place(cell_bounds(cell)[-1]),
            kind=kind,
            tooltip=f"{line.label}: {tables.estimate(cell)}",
        )
        for cell, kind in line.cells
    )
    label = line.label
    if len(label) > LABEL_CHARACTERS:
        label = label[: LABEL_CHARACTERS - 1].rstrip() + "…"
    return PanelRow(label, line.label, y, line.kind, marks)


def cell_bounds(cell: Mapping[str, Any]) -> list[float]:
    """An estimate's value and interval, in order."""
    return sorted([cell["value"], *(cell.get("interval") or ())])


def _nice_ticks(
    low: float, high: float, count: int, *, cover: bool = True
) -> list[float]:
    """About `count` round numbers from `low` to `high`.

    With `cover` the first and last tick enclose the range, else they lie inside it.
    """
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= rough * 0.999)
    slack = 1e-9 * step
    if cover:
        first, last = math.floor(low / step + slack), math.ceil(high / step - slack)
    else:
        first, last = math.ceil(low / step - slack), math.floor(high / step + slack)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _bucket_means(
    points: Sequence[tuple[float, float]], count: int
) -> list[tuple[float, float]]:
    """At most `count` points: means of equally many neighbours, ends included."""
    size = math.ceil(len(points) / count)
    buckets = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (bucket[-1][0], sum(loss for _, loss in bucket) / len(bucket))
        for bucket in buckets
    ]


def _running_mean(values: Sequence[float], window_share: float = 0.06) -> list[float]:
    """Centred means over a share of the points, narrower towards both ends."""
    reach = int(window_share * len(values) / 2)
    means = []
    for index in range(len(values)):
        half = min(reach, index, len(values) - 1 - index)
        window = values[index - half : index + half + 1]
        means.append(sum(window) / len(window))
    return means


def _path(xs: Sequence[float], ys: Sequence[float]) -> str:
    points = " ".join(f"{x:g},{y:g}" for x, y in zip(xs, ys, strict=True))
    return f"M{points.replace(' ', ' L')}"


def _number(value: float) -> str:
    """A tick's label: 2500 as "2.5k", 0.25 as "0.25"."""
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:g}"

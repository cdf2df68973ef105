"""The HTML page of a run's report.

`view` turns the report into what the page shows, as strings and coordinates, and the
template in `templates/` only lays it out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from nemojax.reporting import charts, tables

RELATIONS = {">=": "≥", ">": ">", "<=": "≤"}


def render(report: Mapping[str, Any]) -> str:
    """The page as one self-contained HTML document; text of the run is escaped.

    Args:
      report: as `report.write_report` takes it.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nemojax.evals"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.jinja").render(view(report))


def view(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows, by section; empty sections are falsy."""
    families = tables.families(report)
    return {
        "title": report["title"],
        "subtitle": report.get("subtitle", ""),
        "highlights": report.get("highlights", ()),
        "headline": _headline(report, families),
        "panels": [_stage_panel(report, family) for family in families],
        "notes": report.get("notes", ()),
        "comparisons": [_comparison(row) for row in report.get("comparisons", ())],
        "goals": [_goal(goal) for goal in report.get("goals", ())],
        "students": _students(report, families),
        "reward_model": _reward_model(report.get("reward_model") or {}),
        "curves": [
            panel
            for stage, points in (report.get("curves") or {}).items()
            if (panel := charts.curve_panel(stage, points)) is not None
        ],
        "samples": report.get("samples", ()),
        "times": _times(report),
        "settings": _settings(report.get("settings") or {}),
    }


def _headline(report: Mapping[str, Any], families: Sequence[str]) -> dict[str, Any]:
    rows = [{**report["teacher"], "kind": "teacher"}]
    rows += [
        {**stage, "kind": "control" if stage.get("control") else "stage"}
        for stage in report["stages"]
    ]
    return {
        "columns": [
            {"name": tables.label(name), "n": _counts(rows, name)} for name in families
        ],
        "rows": [
            {
                "name": row["name"],
                "kind": row["kind"],
                "cells": [_cell(row["metrics"].get(name)) for name in families],
                "time": tables.duration(row["seconds"]),
            }
            for row in rows
        ],
    }


def _counts(rows: Sequence[Mapping[str, Any]], family: str) -> str:
    """ "n = 1,000", or the range where the rows differ."""
    counts = sorted(
        {row["metrics"][family]["n"] for row in rows if family in row["metrics"]}
    )
    if len(counts) > 1:
        return f"n = {counts[0]:,} to {counts[-1]:,}"
    return f"n = {counts[0]:,}"


def _cell(cell: Mapping[str, Any] | None, *, signed: bool = False) -> dict[str, str]:
    """An estimate as two strings: its value and its interval."""
    if cell is None:
        return {"value": tables.MISSING, "interval": ""}
    interval = ""
    if cell.get("interval") is not None:
        low, high = (tables.percent(x, signed=signed) for x in cell["interval"])
        interval = f"{low} to {high}"
    return {
        "value": tables.percent(cell["value"], signed=signed),
        "interval": interval,
    }


def _stage_panel(report: Mapping[str, Any], family: str) -> charts.IntervalPanel:
    lines = []
    for stage in report["stages"]:
        kind = "control" if stage.get("control") else "stage"
        cell = stage["metrics"].get(family)
        cells = [] if cell is None else [(cell, kind)]
        lines.append(charts.Line(stage["name"], cells, kind))
    teacher = report["teacher"]["metrics"].get(family)
    if not any(line.cells for line in lines):
        lines = [charts.Line(report["teacher"]["name"], [(teacher, "teacher")])]
    reference = None
    if teacher is not None:
        name = f"{report['teacher']['name']}: {tables.estimate(teacher)}"
        reference = charts.Reference(teacher["value"], name, "teacher")
    return charts.interval_panel(tables.label(family), lines, reference)


def _comparison(row: Mapping[str, Any]) -> dict[str, Any]:
    p = row["p_value"]
    return {
        **row,
        **_cell(row, signed=True),
        "family": tables.label(row["family"]),
        "p_value": "< 0.001" if p < 0.001 else f"{p:.3f}",
    }


def _goal(goal: Mapping[str, Any]) -> dict[str, Any]:
    unit = goal.get("unit", "share")
    interval = goal.get("interval")
    reached = goal.get("reached")
    return {
        "name": goal["name"],
        "threshold": RELATIONS[goal.get("relation", ">=")]
        + " "
        + _quantity(goal["threshold"], unit),
        "value": _quantity(goal.get("value"), unit),
        "interval": ""
        if interval is None
        else " to ".join(_quantity(bound, unit) for bound in interval),
        "state": "open" if reached is None else "reached" if reached else "missed",
        "reason": goal.get("reason", ""),
    }


def _quantity(value: float | None, unit: str) -> str:
    if value is None:
        return tables.MISSING
    if unit == "seconds":
        return tables.duration(value)
    if unit == "number":
        return f"{value:,.4g}"
    return tables.percent(value, signed=unit == "difference")


def _students(
    report: Mapping[str, Any], families: Sequence[str]
) -> dict[str, Any] | None:
    """The final model against the teacher on the families that both have."""
    recipe = [stage for stage in report["stages"] if not stage.get("control")]
    if not recipe:
        return None
    final, teacher = recipe[-1], report["teacher"]
    shared = [f for f in families if f in final["metrics"] and f in teacher["metrics"]]
    if not shared:
        return None
    pairs = [(f, teacher["metrics"][f], final["metrics"][f]) for f in shared]
    lines = [
        charts.Line(tables.label(family), [(before, "teacher"), (after, "stage")])
        for family, before, after in pairs
    ]
    return {
        "teacher": teacher["name"],
        "student": final["name"],
        "panel": charts.interval_panel("", lines),
        "rows": [
            {
                "family": tables.label(family),
                "teacher": _cell(before),
                "student": _cell(after),
                "difference": tables.percent(
                    after["value"] - before["value"], signed=True
                ),
                "ahead": after["value"] > before["value"],
            }
            for family, before, after in pairs
        ],
    }


def _reward_model(section: Mapping[str, Any]) -> dict[str, Any] | None:
    pairs = section.get("pairs") or ()
    kept = section.get("filter") or ()
    if not pairs and not kept:
        return None
    sets = {
        row["name"]: {"all pairs": row["overall"], **row.get("families", {})}
        for row in pairs
    }
    bounds = [
        bound
        for cells in sets.values()
        for cell in cells.values()
        for bound in charts.cell_bounds(cell)
    ]
    return {
        "panels": [
            charts.interval_panel(
                name,
                [
                    charts.Line(label, [(cell, "stage")])
                    for label, cell in cells.items()
                ],
                charts.Reference(0.5, "chance: 50.0", "chance"),
                include=bounds,
            )
            for name, cells in sets.items()
        ],
        "filter": [
            {
                "family": tables.label(row["family"]),
                "raw": _cell(row["raw"]),
                "kept": _cell(row["kept"]),
                "difference": tables.percent(
                    row["kept"]["value"] - row["raw"]["value"], signed=True
                ),
            }
            for row in kept
        ],
    }


def _times(report: Mapping[str, Any]) -> dict[str, Any] | None:
    times = report.get("times")
    if times is None:
        rows = [report["teacher"], *report["stages"]]
        times = {row["name"]: row["seconds"] for row in rows if row["seconds"]}
    total = sum(times.values())
    if not total:
        return None
    longest = max(times.values())
    return {
        "total": tables.duration(total),
        "rows": [
            {
                "name": name,
                "time": tables.duration(seconds),
                "share": f"{100 * seconds / total:.0f} %",
                "width": f"{100 * seconds / longest:.2f}",
            }
            for name, seconds in times.items()
        ],
    }


def _settings(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Groups of (name, value); values that are no group come first, untitled."""
    plain = [(k, v) for k, v in settings.items() if not isinstance(v, Mapping)]
    groups = [{"name": "", "rows": plain}] if plain else []
    groups += [
        {"name": name, "rows": list(value.items())}
        for name, value in settings.items()
        if isinstance(value, Mapping)
    ]
    for group in groups:
        group["rows"] = [(name, _setting(value)) for name, value in group["rows"]]
    return groups


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_setting, value))
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:,}"
    return str(value)

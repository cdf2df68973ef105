"""The HTML page of a run's report, see `report` for what a report holds."""

from collections.abc import Mapping, Sequence
from typing import Any

from nemojax.reporting import page, plots, tables
from nemojax.reporting.plots import Line, Reference

Report = Mapping[str, Any]
_STATES: Any = {True: ("good", "reached"), False: ("bad", "not reached")}


def render(report: Report) -> str:
    """Renders one self-contained HTML document; text of the run is escaped.

    Args:
      report: report as `report.write_report` takes it.
    """
    families = tables.families(report)
    sections = (
        _stages(report, families),
        _by_family(report, families),
        _students(report, families),
        _comparisons(report.get("comparisons", ())),
        _goals(report.get("goals", ())),
        _reward_model(report.get("reward_model") or {}),
        _filter(report.get("reward_model") or {}),
        page.section("samples", page.samples(report.get("samples", ()))),
        page.curves(report.get("curves") or {}),
        _times(report),
        page.section("settings", page.lists(report.get("settings") or {})),
    )
    lead, highlights = report.get("subtitle", ""), report.get("highlights", ())
    return page.render("run", report["title"], sections, lead, highlights)


def _stages(report: Report, families: Sequence[str]) -> Any:
    rows = [("teacher", report["teacher"])]
    rows += [("control" if s.get("control") else "stage", s) for s in report["stages"]]
    header = [
        page.TableCell(tables.label(name), _counts([row for _, row in rows], name))
        for name in families
    ]
    cells = [
        (
            kind,
            [
                page.TableCell(row["name"], tag="" if kind == "stage" else kind),
                *(page.estimate(row["metrics"].get(name)) for name in families),
                page.TableCell(tables.duration(row["seconds"]), tone="time"),
            ],
        )
        for kind, row in rows
    ]
    return page.section(
        "stages",
        page.table(["Stage", *header, "Time"], cells, "headline"),
        page.notes("What this table does and does not show", report.get("notes", ())),
    )


def _counts(rows: Sequence[Report], family: str) -> str:
    """Returns "n = 1,000", or the range where the rows differ."""
    counts = {row["metrics"][family]["n"] for row in rows if family in row["metrics"]}
    low, high = min(counts), max(counts)
    return f"n = {low:,}" if low == high else f"n = {low:,} to {high:,}"


def _by_family(report: Report, families: Sequence[str]) -> Any:
    drawn = []
    for family in families:
        lines = plots.stage_lines(report, family)
        if not any(line.cells for line in lines):
            teacher = report["teacher"]
            lines = [Line(teacher["name"], [(teacher["metrics"][family], "teacher")])]
        title = tables.label(family)
        reference = plots.teacher_reference(report, family)
        drawn.append(page.plot(title, plots.interval_svg(title, lines, reference)))
    return page.section(
        "families",
        page.legend(
            ("stage", "stage"),
            ("control", "control"),
            ("dashed", "teacher"),
            ("band", "95 % interval"),
        ),
        page.plots_of(drawn),
    )


def _students(report: Report, families: Sequence[str]) -> Any:
    """Compares the final model with the teacher on the families that both have."""
    recipe = [stage for stage in report["stages"] if not stage.get("control")]
    if not recipe:
        return None
    final, teacher = recipe[-1], report["teacher"]
    both = [f for f in families if f in final["metrics"] and f in teacher["metrics"]]
    if not both:
        return None
    pairs = {
        tables.label(f): (teacher["metrics"][f], final["metrics"][f]) for f in both
    }
    lines = [
        Line(family, [(before, "teacher"), (after, "stage")])
        for family, (before, after) in pairs.items()
    ]
    rows = [
        ("", [family, page.estimate(old), page.estimate(new), _difference(old, new)])
        for family, (old, new) in pairs.items()
    ]
    plot = page.plot("", plots.interval_svg("", lines))
    return page.section(
        "teacher",
        page.legend(("teacher", teacher["name"]), ("stage", final["name"])),
        page.pair(
            page.table(["Family", "Teacher", "Student", "Difference"], rows),
            page.plots_of([plot]),
        ),
    )


def _difference(before: Report, after: Report) -> page.TableCell:
    change = after["value"] - before["value"]
    tone = "ahead" if change > 0 else "behind"
    return page.TableCell(tables.percent(change, signed=True), strong=True, tone=tone)


def _comparisons(found: Sequence[Report]) -> Any:
    rows = [
        (
            "",
            [
                f"{row['before']} → {row['after']}",
                tables.label(row["family"]),
                page.estimate(row, signed=True),
                str(row["won"]),
                str(row["lost"]),
                "< 0.001" if row["p_value"] < 0.001 else f"{row['p_value']:.3f}",
            ],
        )
        for row in found
    ]
    header = ["Comparison", "Family", "Difference", "Won", "Lost", "p"]
    return page.section(
        "comparisons",
        page.table(header, rows),
    )


def _goals(goals: Sequence[Report]) -> Any:
    rows = []
    for goal in goals:
        unit = goal.get("unit", "share")
        state = _STATES.get(goal.get("reached"), ("", "not measured"))
        bounds = [_quantity(bound, unit) for bound in goal.get("interval") or ()]
        cells = [
            page.TableCell(goal["name"], state=state),
            f"≥ {_quantity(goal['threshold'], unit)}",
            page.TableCell(
                _quantity(goal.get("value"), unit), " to ".join(bounds), strong=True
            ),
        ]
        rows.append(("", cells))
    return page.section(
        "goals",
        page.table(["Goal", "Threshold", "Measured"], rows, "goals"),
    )


def _quantity(value: float | None, unit: str) -> str:
    if value is None:
        return tables.MISSING
    return tables.percent(value, signed=unit == "difference")


def _reward_model(found: Report) -> Any:
    sets = {
        row["name"]: {"all pairs": row["overall"], **row.get("families", {})}
        for row in found.get("pairs") or ()
    }
    cells = [cell for of_set in sets.values() for cell in of_set.values()]
    ends = [bound for cell in cells for bound in plots.bounds(cell)]
    drawn = []
    for name, of_set in sets.items():
        lines = [Line(label, [(cell, "stage")]) for label, cell in of_set.items()]
        svg = plots.interval_svg(name, lines, Reference(0.5, "chance"), ends)
        drawn.append(page.plot(name, svg))
    return page.section("reward-model", page.plots_of(drawn))


def _filter(found: Report) -> Any:
    rows = []
    for row in found.get("filter") or ():
        cells = [page.estimate(row["raw"]), page.estimate(row["kept"])]
        name, change = tables.label(row["family"]), _difference(row["raw"], row["kept"])
        rows.append(("", [name, *cells, change]))
    header = ["Family", "All answers", "Kept answers", "Difference"]
    return page.section("filter", page.table(header, rows))


def _times(report: Report) -> Any:
    times = report.get("times")
    if times is None:
        rows = [report["teacher"], *report["stages"]]
        times = {row["name"]: row["seconds"] for row in rows if row["seconds"]}
    total = page.about(f"{tables.duration(sum(times.values()))} in all.")
    return page.section("times", total, page.bars(times))

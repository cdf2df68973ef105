"""Result tables: for the terminal, for Markdown, and the stage table of a run."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "–"


@dataclass(frozen=True)
class Table:
    """A header and rows of cells; the first column is text, the others are numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self):
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"row {row} has {len(row)} cells, the header {len(self.header)}"
                )

    def to_text(self) -> str:
        """Returns aligned columns for a terminal, without a final line break."""
        cells = [self.header, *self.rows]
        widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
        rule = ["─" * width for width in widths]
        lines = (_padded(line, widths) for line in (cells[0], rule, *cells[1:]))
        return "\n".join("  ".join(line).rstrip() for line in lines)

    def to_markdown(self) -> str:
        """Returns a Markdown table, readable as it is, without a final line break."""
        cells = [
            tuple(_one_line(cell).replace("|", "\\|") for cell in line)
            for line in (self.header, *self.rows)
        ]
        columns = zip(*cells, strict=True)
        widths = [max(3, *map(_width, column)) for column in columns]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        lines = (_padded(line, widths) for line in (cells[0], rule, *cells[1:]))
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(value: float, *, signed: bool = False) -> str:
    """Formats 0.6142 as "61.4", with a sign where it is a difference."""
    return f"{100 * value:{'+' if signed else ''}z.1f}".replace("-", "−")


def estimate(cell: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """Formats `{"value", "n", "interval"}` as "61.4 [57.2, 65.5]", in percent."""
    if cell is None:
        return MISSING
    text = percent(cell["value"], signed=signed)
    if cell.get("interval") is None:
        return text
    low, high = (percent(bound, signed=signed) for bound in cell["interval"])
    return f"{text} [{low}, {high}]"


def plus_minus(cell: Mapping[str, Any] | None) -> str:
    """Formats `{"value", "n", "interval"}` as "61.4 ±4.2", half the interval."""
    if cell is None:
        return MISSING
    if cell.get("interval") is None:
        return percent(cell["value"])
    low, high = cell["interval"]
    return f"{percent(cell['value'])} ±{percent((high - low) / 2)}"


def duration(seconds: float | None) -> str:
    """Formats seconds as "42 s", "3 min 20 s" or "2 h 05 min"."""
    if seconds is None:
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def families(report: Mapping[str, Any]) -> list[str]:
    """Lists the task families of a run's report in the order of appearance."""
    rows = [report["teacher"], *report["stages"]]
    return list(dict.fromkeys(family for row in rows for family in row["metrics"]))


def label(family: str) -> str:
    """Returns a family's name as people read it: "instruction_checks" unmarked."""
    return family.replace("_", " ")


def stage_table(report: Mapping[str, Any]) -> Table:
    """Tabulates a run's stages against the task families, like the report's Table 6.

    Args:
      report: report as `report.write_report` takes it; `teacher` and `stages` are read.
    """
    columns = families(report)
    teacher = {**report["teacher"], "name": f"({report['teacher']['name']})"}
    rows = []
    for row in (teacher, *report["stages"]):
        name = f"{row['name']} [control]" if row.get("control") else row["name"]
        cells = [plus_minus(row["metrics"].get(family)) for family in columns]
        rows.append((name, *cells, duration(row.get("seconds"))))
    return Table(("stage", *map(label, columns), "time"), tuple(rows))


def _padded(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Fills cells up with spaces: the first column to the left, numbers right."""
    spaces = [
        " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True)
    ]
    rest = (space + cell for cell, space in zip(cells[1:], spaces[1:], strict=True))
    return [cells[0] + spaces[0], *rest]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _width(text: str) -> int:
    """Counts a terminal's columns: wide characters take two, combining marks none."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    marks = sum(unicodedata.combining(character) > 0 for character in text)
    return len(text) + wide - marks

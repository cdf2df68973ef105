"""HTML pages of reports: sections of tables, plots, lists, bars and notes.

A page is one self-contained document: styles and plots are inline, there is no script
and no link, and all text is escaped. The template in `templates/` lays out what the
functions here describe.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from nemojax.reporting import plots, tables

Block = dict[str, Any]


@dataclass(frozen=True)
class TableCell:
    """A cell of a table.

    Attributes:
      value: text of the cell.
      note: small text under it.
      strong: whether it is what the row is about.
      tag: a word in a frame behind it.
      state: a look ("good", "bad", "") and a word for it.
      tone: a look of the whole cell ("ahead", "behind", "time").
    """

    value: str
    note: str = ""
    strong: bool = False
    tag: str = ""
    state: tuple[str, str] | None = None
    tone: str = ""


def render(
    template: str,
    title: str,
    sections: Iterable[Block | None],
    lead: str = "",
    highlights: Sequence[Mapping[str, str]] = (),
) -> str:
    """Renders the page as an HTML document.

    Args:
      template: "run" or "recipe", which name the sections and explain them.
      title: title of the page.
      sections: results of `section`; None where there is nothing to show.
      lead: a sentence under the title.
      highlights: cards at the top, each with `label`, `value` and `note`.
    """
    return (
        _environment()
        .get_template(f"{template}.html.jinja")
        .render(
            title=title,
            lead=lead,
            highlights=highlights,
            sections=[one for one in sections if one is not None],
        )
    )


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("nemojax.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def section(name: str, *blocks: Block | None) -> Block | None:
    """Makes blocks under a name of the template; None where all of them are text."""
    shown = [block for block in blocks if block is not None]
    if all(block["kind"] in ("about", "legend") for block in shown):
        return None
    return {"id": name, "blocks": shown}


def about(text: str) -> Block:
    """Makes a paragraph that explains what follows."""
    return {"kind": "about", "text": text}


def estimate(found: Mapping[str, Any] | None, *, signed: bool = False) -> TableCell:
    """Formats a share in percent over its interval."""
    if found is None:
        return TableCell(tables.MISSING, strong=True)
    interval = ""
    if found.get("interval") is not None:
        low, high = (tables.percent(x, signed=signed) for x in found["interval"])
        interval = f"{low} to {high}"
    return TableCell(
        tables.percent(found["value"], signed=signed), interval, strong=True
    )


def table(
    header: Iterable[TableCell | str],
    rows: Iterable[tuple[str, Sequence[TableCell | str]]],
    style: str = "",
) -> Block | None:
    """Makes a table; None without rows.

    Args:
      header: names of the columns.
      rows: a look ("stage", "control", "teacher", "") and the cells of each.
      style: "headline" or "goals" for those looks.
    """
    listed = [{"kind": kind, "cells": [*map(_cell, cells)]} for kind, cells in rows]
    if not listed:
        return None
    head = [*map(_cell, header)]
    return {"kind": "table", "header": head, "rows": listed, "style": style}


def _cell(value: TableCell | str) -> TableCell:
    return TableCell(value) if isinstance(value, str) else value


def legend(*entries: tuple[str, str]) -> Block:
    """Makes a legend of the kinds of marks and their names."""
    return {"kind": "legend", "entries": entries}


def plot(title: str, svg: str, note: str = "") -> Block:
    """Makes a plot with its title, for `plots_of`."""
    return {"title": title, "svg": svg, "note": note}


def plots_of(drawn: Sequence[Block]) -> Block | None:
    """Lays plots beside each other; None without any."""
    return {"kind": "plots", "plots": drawn} if drawn else None


def curves(stages: Mapping[str, Sequence[Mapping[str, Any]]]) -> Block | None:
    """Plots the losses of stages against their steps, as a section."""
    drawn = []
    for name, points in stages.items():
        if (svg := plots.curve_svg(name, points)) is not None:
            last = next(p["loss"] for p in points[::-1] if p.get("loss") is not None)
            drawn.append(plot(name, svg, f"{last:.3g}"))
    return section("curves", plots_of(drawn))


def pair(*blocks: Block | None) -> Block:
    """Lays blocks side by side."""
    return {"kind": "pair", "blocks": [one for one in blocks if one is not None]}


def notes(title: str, texts: Sequence[str]) -> Block | None:
    """Makes remarks in a frame; None without any."""
    return {"kind": "notes", "title": title, "notes": texts} if texts else None


def samples(found: Sequence[Mapping[str, Any]]) -> Block | None:
    """Makes prompts with two responses each, as `report` describes them, or None."""
    return {"kind": "samples", "samples": found} if found else None


def bars(seconds: Mapping[str, float]) -> Block | None:
    """Draws times as bars, of which the longest is full; None where none was taken."""
    longest = max(seconds.values(), default=0)
    if not longest:
        return None
    rows = [
        {
            "name": name,
            "text": tables.duration(value),
            "width": f"{100 * value / longest:.2f}",
        }
        for name, value in seconds.items()
    ]
    return {"kind": "bars", "rows": rows}


def lists(groups: Mapping[str, Any]) -> Block | None:
    """Lists names and values by group; values without a group come first, untitled."""
    plain = {k: v for k, v in groups.items() if not isinstance(v, Mapping)}
    found = {"": plain} if plain else {}
    found |= {k: v for k, v in groups.items() if isinstance(v, Mapping)}
    if not found:
        return None
    listed = [
        {"name": name, "rows": [(key, _setting(value)) for key, value in rows.items()]}
        for name, rows in found.items()
    ]
    return {"kind": "lists", "groups": listed}


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_setting, value))
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:,}"
    return str(value)

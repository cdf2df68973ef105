"""The report of a run: `report.json`, one HTML page and one PNG.

The page needs nothing but itself: styles and charts are inline, there is no script
and no link, and all text from the run is escaped. It is read on a phone as well as on
paper, in light and dark.

The input is a JSON object, and `report.json` is exactly that object. An *estimate* is
`{"value": share, "n": count, "interval": [low, high] | null}`, as
`statistics.Estimate.to_json` gives it; shares are in [0, 1] and shown in percent.

    title        str
    subtitle     str, optional
    highlights   [{"label", "value", "note"}] of strings, optional: cards at the top
    teacher      {"name", "metrics": {family: estimate}, "seconds": float | null}
    stages       [{"name", "metrics": {family: estimate}, "seconds": float | null,
                   "control": bool, optional}]; a control is no step of the recipe.
                 The last stage that is no control is the final model.
    notes        [str], optional: what the table does and does not show
    comparisons  [{"before", "after", "family": str, "value": difference,
                   "interval", "won": int, "lost": int, "p_value": float}], optional
    goals        [{"name", "threshold", "value", "interval", "reached": bool | null,
                   "unit": "share" | "difference", optional ("share")}], optional
    reward_model {"pairs": [{"name", "overall": estimate,
                             "families": {family: estimate}}],
                  "filter": [{"family", "raw": estimate, "kept": estimate}]}, optional
    curves       {stage: [{"step": int, "loss": float | null, ...}]}, optional
    samples      [{"family", "prompt": str, "before": answer, "after": answer}],
                 optional; an answer is {"stage", "text": str, "correct": bool | null,
                 "verdict": str}
    times        {name: seconds}, optional; default: the seconds of the stages
    settings     {name: value or {name: value}}, optional

Other keys are kept in `report.json` and not shown.
"""

import json
import math
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemojax.io import folders
from nemojax.reporting import plots, run_page


@dataclass(frozen=True)
class ReportFiles:
    """Paths of a written report."""

    json: pathlib.Path
    html: pathlib.Path
    plot: pathlib.Path


def write_report(
    directory: str | os.PathLike[str], report: Mapping[str, Any]
) -> ReportFiles:
    """Writes `report.json`, `report.html` and `stages.png` into `directory`.

    Each file appears whole or not at all; files of an earlier report are replaced.

    Args:
      directory: created if it is missing.
      report: see the module's description.

    Raises:
      ValueError: a key is missing or a value is no JSON; the message names its place.
    """
    check(report)
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    files = ReportFiles(
        directory / "report.json", directory / "report.html", directory / "stages.png"
    )
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    folders.write_file(files.json, text)
    # Half of a character pair, which a model may write, has no UTF-8 form.
    folders.write_file(files.html, run_page.render(report).encode(errors="replace"))
    plots.write(plots.stage_figure(report), files.plot)
    return files


def check(report: Mapping[str, Any]) -> None:
    """Checks that `report` is JSON and has what the page needs.

    Raises:
      ValueError: names the place, such as `report.stages[2].metrics.math.value`.
    """
    _check_json("report", report)
    for key in ("title", "teacher", "stages"):
        _require("report", report, key)
    if not report["stages"]:
        raise ValueError("report.stages is empty")
    rows = {f"stages[{i}]": stage for i, stage in enumerate(report["stages"])}
    for place, row in {"teacher": report["teacher"], **rows}.items():
        for key in ("name", "metrics", "seconds"):
            _require(f"report.{place}", row, key)
        for family, cell in row["metrics"].items():
            for key in ("value", "n", "interval"):
                _require(f"report.{place}.metrics.{family}", cell, key)


def _require(place: str, value: Any, key: str) -> None:
    if not isinstance(value, Mapping) or key not in value:
        raise ValueError(f"{place} has no key {key!r}")


def _check_json(place: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{place} has the key {key!r}, which is not text")
            _check_json(f"{place}.{key}", item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_json(f"{place}[{index}]", item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place} is {value}; JSON has no such number, use null")
    elif type(value) not in (str, int, float, bool, type(None)):
        raise ValueError(f"{place} is no JSON value but {type(value).__name__}")

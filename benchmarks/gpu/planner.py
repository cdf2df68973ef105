"""The planner's prediction beside each measured pass and step; nothing runs here."""

import functools
from collections.abc import Mapping
from typing import Any

from benchmarks.gpu import dpo, layers, sizes, timing
from benchmarks.gpu.job import Job
from nemojax.parallel.layout import LayoutSpec
from nemojax.planning import hardware, memory, roofline
from nemojax.planning.alignment import Alignment
from nemojax.planning.scenario import Scenario

# What is predicted for, where the device is none that the planner knows.
_DEFAULT = hardware.get("h100")
_LABELS = ("what", "remat", "rows", "passes")


def run(job: Job) -> None:
    """Predicts what `layers` and `dpo` have measured.

    Raises:
      ValueError: they have measured nothing.
    """
    card = timing.card(job.device or "cpu")
    compare = functools.partial(_compare, comparable=card is not None)
    known = card or _DEFAULT
    found = {
        part: [row for row in job.measured.get(part, []) if "failed" not in row]
        for part in ("layers", "dpo")
    }
    if not any(found.values()):
        raise ValueError("no measured layers and no dpo: name a file as --measured")
    config, length = sizes.share(job.small), sizes.length(job.small)
    for row in found["layers"]:
        spec = layers.spec(row["remat"], row["passes"])
        scenario = Scenario(config, known, spec, row["rows"], length)
        labels = {name: row[name] for name in _LABELS}
        job.measure(labels, functools.partial(compare, scenario, row))
    for row in found["dpo"]:
        asked = dpo.pairs_job(job.small)
        spec = LayoutSpec(remat=asked.remat, rows=0, zero=0)
        scenario = Scenario(
            asked.config, known, spec, row["rows"], row["length"], Alignment("dpo")
        )
        labels = {name: row.get(name) for name in _LABELS}
        job.measure(labels, functools.partial(compare, scenario, row))


def _compare(
    scenario: Scenario, row: Mapping[str, Any], *, comparable: bool
) -> dict[str, Any]:
    """Returns measured and predicted, and by how much the prediction is off."""
    seconds = dict(roofline.predict(scenario).parts)
    size = memory.per_device(scenario)
    if row["what"] == "pass":  # without AdamW
        seconds["optimizer"] = size["optimizer"] = 0.0
    predicted = {"ms": 1e3 * sum(seconds.values()), "gib": sum(size.values()) / 2**30}
    found: dict[str, Any] = {"predicted_for": scenario.hardware.name}
    for name, value in predicted.items():
        measured = row.get(name)
        found |= {
            f"measured_{name}": measured,
            f"predicted_{name}": value,
            f"{name}_off_percent": 100 * (value / measured - 1)
            if measured and comparable
            else None,
        }
    return found

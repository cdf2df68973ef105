"""Report of the recipe on real data: table, `report.json`, `report.html`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemojax.io import folders
from nemojax.io.workdir import StageOutput
from nemojax.recipe.folder import measures
from nemojax.recipe.folder.settings import FolderSettings
from nemojax.reporting import page as pages
from nemojax.reporting import statistics, tables

# Measure, its short name, and whether it is a share, shown in percent.
COLUMNS = (
    ("bits_per_byte_english", "english", False),
    ("bits_per_byte_multilingual", "multil.", False),
    ("bits_per_byte_code", "code", False),
    ("code_sft_loss", "code SFT", False),
    ("general_sft_loss", "gen. SFT", False),
    (measures.SUM, "preference", True),
    (measures.MEAN, "per token", True),
    ("reward_accuracy", "reward", True),
)
KEY = (
    "english, multil., code: bits per byte of held-out text; code SFT, gen. SFT: loss "
    "in nats per token on held-out rows; preference: percent of held-out pairs whose "
    "chosen response has the higher log-prob (sum over tokens; per token: mean); "
    "reward: the same of rewards. ± is half the 95 % interval; n counts documents, "
    "rows or pairs."
)


def build(
    settings: FolderSettings,
    stages: Mapping[str, StageOutput],
    data_files: Mapping[str, str],
    quarantine: Mapping[str, int],
) -> dict[str, Any]:
    """Builds the report as a JSON object.

    `stages[]` hold `name, metrics, seconds, counts`; a metric is `value, n, interval`.
    `comparisons[]` are paired, on the same pairs; `checks[]` say what had to hold;
    `model` is the last policy's folder, below the run's.

    Args:
      settings: settings of the run.
      stages: finished, in order.
      data_files: size and hash of each file.
      quarantine: number of quarantined rows by reason.
    """
    rows = [
        {"name": "untrained", "metrics": stages["pretrain"].result["untrained"]},
        *(
            {
                "name": name,
                "metrics": stage.result.get("metrics", {}),
                "seconds": stage.seconds,
                "counts": stage.result.get("counts", {}),
            }
            for name, stage in stages.items()
        ),
    ]
    final = list(stages)[-1]
    return {
        "title": "The recipe on real data",
        "model": f"{final}/model",
        "stages": rows,
        "comparisons": _comparisons(stages),
        "checks": checks(rows, stages["pretrain"].result["validation"]),
        "validation": stages["pretrain"].result["validation"],
        "reward_model": stages["reward_model"].result["accuracy"],
        "quarantine": {"rows": sum(quarantine.values()), "reasons": dict(quarantine)},
        "seconds": round(sum(stage.seconds for stage in stages.values()), 1),
        "final": {
            key: stages[final].result[key]
            for key in ("parameters", "parameters_sha256")
        }
        | {"stage": final},
        "curves": {
            name: stage.result["history"]
            for name, stage in stages.items()
            if "history" in stage.result
        },
        "settings": settings.configuration(),
        "data": dict(data_files),
    }


def _comparisons(stages: Mapping[str, StageOutput]) -> list[dict[str, Any]]:
    """Compares policies by preference accuracy on the same pairs."""
    policies = [name for name in stages if name == "dpo" or name.startswith("rpo")]
    steps = list(zip(["general_sft", *policies[:-1]], policies, strict=True))
    if len(policies) > 1:
        steps.append(("general_sft", policies[-1]))
    found = []
    for before, after in steps:
        for name in (measures.SUM, measures.MEAN):
            outcomes = [stages[s].result["outcomes"][name] for s in (before, after)]
            compared = statistics.compare(*outcomes).to_json()
            found.append(
                {"before": before, "after": after, "measure": name, **compared}
            )
    return found


def checks(
    rows: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Returns `name, before, after, holds` of each improvement the run had to show.

    Args:
      rows: the report's stages.
      validation: bits per byte along pretraining.
    """
    metrics = {row["name"]: row["metrics"] for row in rows}
    found = []

    def add(name: str, before: float, after: float, falls: bool) -> None:
        holds = after < before if falls else after > before
        found.append({"name": name, "before": before, "after": after, "holds": holds})

    def value(stage: str, measure: str) -> float:
        return metrics[stage][measure]["value"]

    for measure, label, _ in COLUMNS[:3]:
        name = f"bits per byte fall: {label}"
        ends = value("untrained", measure), value("pretrain", measure)
        add(f"{name}, over pretraining", *ends, True)
        along = validation[0][measure], validation[-1][measure]
        add(f"{name}, along pretraining", *along, True)
    for stage, before in (("code_sft", "pretrain"), ("general_sft", "code_sft")):
        measure = f"{stage}_loss"
        ends = value(before, measure), value(stage, measure)
        add(f"{measure} falls over {stage}", *ends, True)
    for stage in metrics:
        if stage == "dpo" or stage.startswith("rpo"):
            ends = value("general_sft", measures.SUM), value(stage, measures.SUM)
            add(f"preference accuracy of {stage} above general_sft", *ends, False)
    accuracy = value("reward_model", "reward_accuracy")
    add("reward model above chance", 0.5, accuracy, False)
    return found


def table(report: Mapping[str, Any]) -> tables.Table:
    """Tabulates the stages against the measures."""
    rows = []
    for row in report["stages"]:
        cells = [
            _cell(row["metrics"].get(measure), is_share)
            for measure, _, is_share in COLUMNS
        ]
        rows.append((row["name"], *cells, tables.duration(row.get("seconds"))))
    rows.append(("n", *_sizes(report), ""))
    header = ("stage", *(label for _, label, _ in COLUMNS), "time")
    return tables.Table(header, tuple(rows))


def _sizes(report: Mapping[str, Any]) -> list[str]:
    """Counts the documents, rows or pairs that each measure rests on."""
    found = {
        measure: cell["n"]
        for row in report["stages"]
        for measure, cell in row["metrics"].items()
    }
    return [f"{found[measure]:,}" for measure, _, _ in COLUMNS]


def _cell(estimate: Mapping[str, Any] | None, is_share: bool) -> str:
    if estimate is None:
        return tables.MISSING
    return tables.plus_minus(estimate) if is_share else f"{estimate['value']:.3f}"


def text(report: Mapping[str, Any]) -> str:
    """Returns the table, its key, the comparisons, and the checks that do not hold."""
    lines = [table(report).to_text(), "", KEY]
    for row in report["comparisons"]:
        if row["measure"] == measures.SUM:
            change = tables.estimate(row, signed=True)
            lines.append(
                f"preference {row['before']} → {row['after']}: {change} points, "
                f"{row['won']} pairs won, {row['lost']} lost of {row['n']}, "
                f"p = {row['p_value']:.3g}"
            )
    failed = [check["name"] for check in report["checks"] if not check["holds"]]
    lines += [f"does not hold: {name}" for name in failed]
    return "\n".join(lines)


def write(directory: Path, report: Mapping[str, Any]) -> None:
    """Writes `report.json` and `report.html`; each appears whole or not at all."""
    document = json.dumps(report, indent=1, allow_nan=False) + "\n"
    for name, content in (("report.json", document), ("report.html", page(report))):
        folders.write_file(directory / name, content)


def page(report: Mapping[str, Any]) -> str:
    """Returns the report as one HTML page that needs nothing but itself."""
    total = tables.duration(report["seconds"])
    counts = {row["name"]: row["counts"] for row in report["stages"] if "counts" in row}
    sections = (
        _stages(report),
        _compared(report["comparisons"]),
        _checked(report["checks"]),
        pages.section("rows", pages.lists(counts)),
        pages.curves(report["curves"]),
    )
    lead = (
        f"{report['final']['parameters']:,} parameters, {total}; rows of the data in "
        f"quarantine: {report['quarantine']['rows']}."
    )
    return pages.render("recipe", report["title"], sections, lead)


def _stages(report: Mapping[str, Any]) -> Any:
    sizes = zip(COLUMNS, _sizes(report), strict=True)
    header = [pages.TableCell(label, f"n = {n}") for (_, label, _), n in sizes]
    rows = []
    for row in report["stages"]:
        found = [row["metrics"].get(measure) for measure, _, _ in COLUMNS]
        time = pages.TableCell(tables.duration(row.get("seconds")), tone="time")
        cells = [
            pages.estimate(estimate) if is_share else _measured(estimate)
            for estimate, (_, _, is_share) in zip(found, COLUMNS, strict=True)
        ]
        rows.append(("stage", [row["name"], *cells, time]))
    table = pages.table(["Stage", *header, "Time"], rows, "headline")
    return pages.section("stages", table)


def _measured(estimate: Mapping[str, Any] | None) -> pages.TableCell:
    bounds = (estimate or {}).get("interval") or ()
    interval = " to ".join(f"{bound:.3f}" for bound in bounds)
    return pages.TableCell(_cell(estimate, False), interval, strong=True)


def _compared(found: Sequence[Mapping[str, Any]]) -> Any:
    rows = []
    for row in found:
        sides = f"{row['before']} → {row['after']}"
        numbers = [str(row[name]) for name in ("won", "lost", "n")]
        cells = [sides, tables.label(row["measure"]), pages.estimate(row, signed=True)]
        rows.append(("", [*cells, *numbers, f"{row['p_value']:.3g}"]))
    header = ["Comparison", "Measure", "Difference", "Won", "Lost", "n", "p"]
    table = pages.table(header, rows)
    return pages.section("comparisons", table)


def _checked(found: Sequence[Mapping[str, Any]]) -> Any:
    rows = []
    for check in found:
        state = ("good", "holds") if check["holds"] else ("bad", "does not hold")
        after = pages.TableCell(f"{check['after']:.4f}", strong=True)
        name = pages.TableCell(tables.label(check["name"]), state=state)
        rows.append(("", [name, f"{check['before']:.4f}", after]))
    table = pages.table(["Check", "Before", "After"], rows, "goals")
    return pages.section("checks", table)

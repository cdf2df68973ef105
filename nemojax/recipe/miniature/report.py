"""Report of the miniature recipe, from what its stages left."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from nemojax.io import sealed
from nemojax.io.workdir import StageOutput
from nemojax.recipe.miniature import checks, evaluation
from nemojax.recipe.miniature.settings import MiniatureSettings
from nemojax.reporting import statistics, tables
from nemojax.tasks.miniature.grading import Task

Stages = Mapping[str, StageOutput]

NAMES = {
    "pretrain": "Base",
    "code_sft": "Code SFT",
    "general_sft": "General SFT",
    "dpo": "DPO",
    "rpo_1": "RPO 1",
    "rpo_2": "RPO 2",
    "rpo_3": "RPO 3",
    "unfiltered_sft": "General SFT, unfiltered",
    "control_dpo": "DPO, chosen only",
    "control_rpo_1": "RPO 1, chosen only",
    "control_rpo_2": "RPO 2, chosen only",
    "control_rpo_3": "RPO 3, chosen only",
}
NOTES = (
    "Base is prompted in its own completion format, all later stages in the chat "
    "format, so Base and Code SFT are not like for like in this table. A code-only "
    "model answers every question with a program.",
    "Intervals are 95 % over the tasks of one run. Whether a step of the recipe helps "
    "is a question for several seeds: see docs/miniature.md.",
    "Rows marked as controls are no part of the recipe: SFT on the teacher's answers "
    "as they come, and the preference stages with the same data but only the "
    "likelihood of the chosen answers.",
    "In the preference stages programs check the answers (math, code, instructions); "
    "the reward model adds its other attributes to the reward.",
    "The correctness of the DPO and RPO losses rests on their unit tests, not on this "
    "table.",
)


def build(
    settings: MiniatureSettings, stages: Stages, tasks: Sequence[Task]
) -> dict[str, Any]:
    """Builds the report of a finished run, as `nemojax.reporting.report` takes it.

    Its `model` is the last policy's folder, below the run's.
    """
    teacher = stages["teacher"]
    pretrain = stages["pretrain"].result
    report: dict[str, Any] = {
        "title": "The recipe in miniature",
        "model": f"{_final(stages)}/model",
        "subtitle": f"seed {settings.seed}, teacher with {settings.teacher} errors, "
        f"{pretrain['parameters']:,} parameters",
        "teacher": {
            "name": "Teacher",
            "metrics": teacher.result["metrics"],
            "seconds": None,
        },
        "stages": [_stage(name, stages[name]) for name in NAMES if name in stages],
        "notes": list(NOTES),
        "comparisons": comparisons(stages, tasks),
        "reward_model": _reward_model(stages),
        "curves": {
            NAMES.get(name, _words(name)): output.result["history"]
            for name, output in stages.items()
            if "history" in output.result
        },
        "samples": samples(stages, tasks),
        "times": {
            NAMES.get(name, _words(name)): output.seconds
            for name, output in stages.items()
        },
        "settings": dataclasses.asdict(settings),
        "parameters_sha256": {
            name: output.result["parameters_sha256"]
            for name, output in stages.items()
            if "parameters_sha256" in output.result
        },
    }
    code = [task for task in tasks if task.family == "code"]
    base = evaluation.of_family(tasks, pretrain["completion_correct"], "code")
    after = stages["code_sft"].result["completion_correct"]
    if code:
        report["completion_format"] = {
            "Base": statistics.share(base).to_json(),
            "Code SFT": statistics.share(after).to_json(),
        }
    report["quantities"] = checks.quantities(report)
    report["goals"] = checks.goal_rows(report)
    report["highlights"] = _highlights(report)
    return report


def comparisons(stages: Stages, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Compares neighbouring stages, pairwise, on math, code and instructions."""
    order = [
        n for n in ("general_sft", "dpo", "rpo_1", "rpo_2", "rpo_3") if n in stages
    ]
    pairs = [("teacher", "general_sft"), *itertools.pairwise(order)]
    if len(order) > 1:
        pairs += [("general_sft", order[-1]), ("teacher", order[-1])]
        if f"control_{order[-1]}" in stages:
            pairs.append((f"control_{order[-1]}", order[-1]))
    if "unfiltered_sft" in stages:
        pairs.append(("unfiltered_sft", "general_sft"))
    rows = []
    for before, after in pairs:
        outcomes = [_three(stages[name], tasks) for name in (before, after)]
        compared = statistics.compare(*outcomes)
        rows.append(
            {
                "before": NAMES.get(before, _words(before)),
                "after": NAMES.get(after, _words(after)),
                "family": "math, code, instruction",
                **compared.to_json(),
            }
        )
    return rows


def samples(stages: Stages, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Returns responses of the SFT model and of the final one, by family."""
    sides = {}
    for side, name in (("before", "general_sft"), ("after", _final(stages))):
        texts = sealed.read(stages[name].directory / evaluation.ANSWERS)["texts"]
        sides[side] = (NAMES[name], texts, stages[name].result["correct"])
    found = []
    for family in dict.fromkeys(task.family for task in tasks):
        indices = [i for i, task in enumerate(tasks) if task.family == family]
        change = [sides["after"][2][i] - sides["before"][2][i] for i in indices]
        # One of each outcome, as long as there is one: not only the good news.
        for wanted in (1, -1, 0):
            if wanted in change:
                i = indices[change.index(wanted)]
                row: dict[str, Any] = {"family": family, "prompt": tasks[i].prompt}
                for side, (stage, texts, correct) in sides.items():
                    row[side] = _answer(tasks[i], stage, texts[i], correct[i])
                found.append(row)
    return found


def terminal_table(report: Mapping[str, Any]) -> str:
    """Returns the stage table for the terminal, the teacher on top."""
    return tables.stage_table(report).to_text()


def _answer(task: Task, stage: str, text: str, correct: int) -> dict[str, Any]:
    checks = task.grade(text).checks
    failed = [name for name, passed in checks.items() if not passed]
    verdict = "correct" if correct else f"failed: {', '.join(failed[:4]) or 'answer'}"
    return {"stage": stage, "text": text, "correct": bool(correct), "verdict": verdict}


def _stage(name: str, output: StageOutput) -> dict[str, Any]:
    metrics = output.result.get("metrics") or output.result["completion_metrics"]
    row = {"name": NAMES[name], "metrics": metrics, "seconds": output.seconds}
    if not _is_step(name):
        row["control"] = True
    return row


def _final(stages: Stages) -> str:
    return [name for name in NAMES if name in stages and _is_step(name)][-1]


def _is_step(name: str) -> bool:
    return not name.startswith(("control", "unfiltered"))


def _three(output: StageOutput, tasks: Sequence[Task]) -> list[int]:
    return [
        value
        for task, value in zip(tasks, output.result["correct"], strict=True)
        if task.family in checks.THREE
    ]


def _reward_model(stages: Stages) -> dict[str, Any]:
    pairs = []
    for name, title in (
        ("reward_model", "first reward model"),
        ("policy_reward_model", "second reward model"),
    ):
        for kind, accuracy in stages[name].result["pairwise_accuracy"].items():
            if "all" not in accuracy:
                continue  # of no pair was just one response right
            families = {k: v for k, v in accuracy.items() if k != "all"}
            label = "teacher pairs" if kind == "teacher" else "the policy's own pairs"
            pairs.append(
                {
                    "name": f"{title}, {label}",
                    "overall": accuracy["all"],
                    "families": families,
                }
            )
    rows = []
    for part in ("code", "general"):
        for family, found in stages["synthetic_data"].result[part].items():
            rows.append({"family": family, "raw": found["raw"], "kept": found["kept"]})
    return {"pairs": pairs, "filter": rows}


def _highlights(report: Mapping[str, Any]) -> list[dict[str, str]]:
    found = report["quantities"]
    seconds = sum(report["times"].values())
    return [
        {
            "label": "Final model against its teacher",
            "value": tables.percent(found["final_teacher"], signed=True),
            "note": "mean of math, code and instructions, percentage points",
        },
        {
            "label": "Preference stages",
            "value": tables.percent(found["final_general"], signed=True),
            "note": "final model against General SFT, percentage points",
        },
        {
            "label": "Whole recipe",
            "value": tables.duration(seconds),
            "note": "all stages with their evaluations",
        },
    ]


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()

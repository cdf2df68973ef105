"""Results that a run of the miniature recipe must show, and those hoped for.

Floors hold on every run. Goals are claims: each is made only where the interval of
several fresh seeds lies above it, which `experiments/miniature_table.py` computes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

# The families whose mean is "the mean of three"; facts are reported beside it.
THREE = ("math", "code", "instruction")


@dataclasses.dataclass(frozen=True)
class Check:
    """One quantity with the value it has to reach.

    Attributes:
      name: a key of `quantities`.
      text: text that a reader sees.
      threshold: the least value of a floor; the interval of a goal must lie above it.
      unit: "share" or "difference".
    """

    name: str
    text: str
    threshold: float
    unit: str = "share"


_DIFF = "difference"
FLOORS = (
    Check("reward_teacher", "Reward model, teacher pairs", 0.72),
    Check("filter_math", "Filter lift, math", 0.05, _DIFF),
    Check("filter_code", "Filter lift, code", 0.05, _DIFF),
    Check("filter_instruction", "Filter lift, instructions", 0.05, _DIFF),
    Check("filter_facts", "Filter lift, facts", 0.05, _DIFF),
    Check("code_sft_code", "Code SFT, code", 0.52),
    Check("general_math", "General SFT, math", 0.65),
    Check("general_instruction", "General SFT, instructions", 0.35),
    Check("general_code", "General SFT, code", 0.48),
    Check("general_teacher", "General SFT - teacher", 0.04, _DIFF),
    Check("step_dpo", "DPO - General SFT", -0.02, _DIFF),
    Check("step_rpo_1", "RPO 1 - DPO", -0.02, _DIFF),
    Check("step_rpo_2", "RPO 2 - RPO 1", -0.02, _DIFF),
    Check("step_rpo_3", "RPO 3 - RPO 2", -0.02, _DIFF),
)
GOALS = (
    Check("reward_own", "Reward model, the SFT policy's own pairs", 0.65),
    Check("code_sft_base", "Code SFT - Base, code, same prompts", 0.0, _DIFF),
    Check("final_general", "Final - General SFT", 0.05, _DIFF),
    Check("final_control", "RPO 3 - control (chosen only)", 0.0, _DIFF),
    Check("final_facts", "Facts of the final model", 0.45),
    Check("final_teacher", "Final - teacher", 0.18, _DIFF),
)


def quantities(report: Mapping[str, Any]) -> dict[str, float]:
    """Returns every quantity of `FLOORS` and `GOALS` that a run's report holds."""
    stages = {stage["name"]: _values(stage) for stage in report["stages"]}
    teacher = _values(report["teacher"])
    code, general = stages["Code SFT"], stages["General SFT"]
    found = {
        "code_sft_code": code["code"],
        "general_math": general["math"],
        "general_instruction": general["instruction"],
        "general_code": general["code"],
        "general_teacher": mean_of_three(general) - mean_of_three(teacher),
    }
    before, final = general, general
    for name in ("DPO", "RPO 1", "RPO 2", "RPO 3"):
        if name in stages:
            final = stages[name]
            key = f"step_{name.lower().replace(' ', '_')}"
            found[key] = mean_of_three(final) - mean_of_three(before)
            before = final
    found["final_general"] = mean_of_three(final) - mean_of_three(general)
    found["final_teacher"] = mean_of_three(final) - mean_of_three(teacher)
    found["final_facts"] = final["facts"]
    control = stages.get("RPO 3, chosen only")
    if control:
        found["final_control"] = mean_of_three(final) - mean_of_three(control)
    completion = report.get("completion_format", {})
    if completion:
        found["code_sft_base"] = (
            completion["Code SFT"]["value"] - completion["Base"]["value"]
        )
    reward = report["reward_model"]
    for pairs in reward["pairs"]:
        key = "reward_own" if "own" in pairs["name"] else "reward_teacher"
        found.setdefault(key, pairs["overall"]["value"])
    for row in reward["filter"]:
        found[f"filter_{row['family']}"] = row["kept"]["value"] - row["raw"]["value"]
    return found


def mean_of_three(values: Mapping[str, float]) -> float:
    """Returns the mean accuracy of math, code and instructions (strict)."""
    return float(np.mean([values[family] for family in THREE]))


def goal_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the floors of one run, as the report page shows them."""
    found = quantities(report)
    return [
        {
            "name": check.text,
            "threshold": check.threshold,
            "value": found[check.name],
            "interval": None,
            "reached": found[check.name] >= check.threshold,
            "unit": check.unit,
        }
        for check in FLOORS
        if check.name in found
    ]


def _values(stage: Mapping[str, Any]) -> dict[str, float]:
    return {name: cell["value"] for name, cell in stage["metrics"].items()}

"""Quantities of a report whose numbers are made up, worked out by hand."""

import pytest

from nemojax.recipe.miniature import checks


def stage(name, *values):
    """Percent right of math, code, instructions and facts."""
    families = ("math", "code", "instruction", "facts")
    cells = zip(families, values, strict=True)
    metrics = {family: {"value": value / 100} for family, value in cells}
    return {"name": name, "metrics": metrics}


@pytest.fixture
def report():
    kept = {"family": "math", "raw": {"value": 0.6}, "kept": {"value": 0.9}}
    pairs = [
        {"name": "first reward model, teacher pairs", "overall": {"value": 0.8}},
        {"name": "second reward model, the policy's own pairs",
         "overall": {"value": 0.7}},
        {"name": "second reward model, teacher pairs", "overall": {"value": 0.1}},
    ]  # fmt: skip
    return {
        "teacher": stage("Teacher", 50, 50, 50, 50),  # mean of three 50
        "stages": [
            stage("Base", 1, 2, 3, 4),
            stage("Code SFT", 0, 61, 0, 0),
            stage("General SFT", 66, 54, 45, 30),  # 55
            stage("DPO", 70, 60, 50, 20),  # 60
            stage("RPO 1", 71, 58, 48, 40),  # 59
            stage("RPO 2", 80, 60, 55, 10),  # 65
            stage("RPO 3", 90, 66, 60, 45),  # 72
            stage("RPO 3, chosen only", 80, 70, 60, 99),  # 70
        ],
        "completion_format": {"Base": {"value": 0.3}, "Code SFT": {"value": 0.5}},
        "reward_model": {"pairs": pairs, "filter": [kept]},
    }


def test_quantities_are_those_worked_out_by_hand(report):
    assert checks.quantities(report) == pytest.approx(
        {
            "reward_teacher": 0.8,  # of the first model
            "reward_own": 0.7,
            "filter_math": 0.3,
            "code_sft_code": 0.61,
            "code_sft_base": 0.2,
            "general_math": 0.66,
            "general_code": 0.54,
            "general_instruction": 0.45,
            "general_teacher": 0.05,
            "step_dpo": 0.05,
            "step_rpo_1": -0.01,
            "step_rpo_2": 0.06,
            "step_rpo_3": 0.07,
            "final_general": 0.17,
            "final_teacher": 0.22,
            "final_control": 0.02,
            "final_facts": 0.45,
        }
    )


def test_a_floor_is_reached_at_its_threshold_and_not_below(report):
    report["stages"][4] = stage("RPO 1", 69, 57, 45, 0)  # 57, DPO has 60
    reached = {row["name"]: row["reached"] for row in checks.goal_rows(report)}
    assert reached["RPO 1 - DPO"] is False
    assert reached["RPO 2 - RPO 1"] is True
    assert reached["Reward model, teacher pairs"] is True
    report["reward_model"]["pairs"][0]["overall"]["value"] = 0.72
    rows = {row["name"]: row for row in checks.goal_rows(report)}
    assert rows["Reward model, teacher pairs"]["reached"] is True
    report["reward_model"]["pairs"][0]["overall"]["value"] = 0.7199
    rows = {row["name"]: row for row in checks.goal_rows(report)}
    assert rows["Reward model, teacher pairs"]["reached"] is False
    assert "Final - teacher" not in rows  # a goal, which one run cannot show

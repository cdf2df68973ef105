"""Checks say what the numbers say, and the page takes no text as markup."""

import copy

import pytest

from nemojax.recipe.folder import report as reporting

CLASSES = ("english", "multilingual", "code")


def cell(value: float, n: int = 40):
    return {"value": value, "n": n, "interval": [value - 0.01, value + 0.01]}


def row(name: str, bits: float, code: float, general: float, preference: float):
    metrics = {f"bits_per_byte_{text}": cell(bits) for text in CLASSES}
    metrics |= {"code_sft_loss": cell(code), "general_sft_loss": cell(general)}
    metrics["preference_accuracy"] = cell(preference)
    metrics["preference_accuracy_per_token"] = cell(1 - preference)
    return {"name": name, "metrics": metrics, "seconds": 3.0, "counts": {"rows": 7}}


@pytest.fixture
def report():
    """A run in which all that should hold does."""
    stages = [
        row("untrained", 5.0, 8.0, 8.0, 0.5),
        row("pretrain", 2.5, 4.0, 4.0, 0.5),
        {"name": "reward_model", "metrics": {"reward_accuracy": cell(0.6)}},
        row("code_sft", 2.6, 3.0, 4.1, 0.5),
        row("general_sft", 2.7, 3.2, 3.5, 0.5),
        row("dpo", 2.8, 3.3, 3.6, 0.6),
        row("rpo_1", 2.8, 3.3, 3.6, 0.7),
    ]
    bits = {f"bits_per_byte_{text}": 4.0 for text in CLASSES}
    last = {f"bits_per_byte_{text}": 2.5 for text in CLASSES}
    return {
        "title": "A <b>run</b>",
        "stages": stages,
        "validation": [{"step": 1, **bits}, {"step": 2, **last}],
        "comparisons": [],
        "final": {"parameters": 12_345},
        "quarantine": {"rows": 3},
        "seconds": 21.0,
        "curves": {"dpo": [{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.6}]},
    }


def failed(report) -> list[str]:
    found = reporting.checks(report["stages"], report["validation"])
    return [check["name"] for check in found if not check["holds"]]


def test_all_checks_hold_where_they_should(report):
    assert failed(report) == []


@pytest.mark.parametrize(
    ("stage", "measure", "value", "name"),
    [
        ("pretrain", "bits_per_byte_code", 5.0, "bits per byte fall: code, over"),
        ("code_sft", "code_sft_loss", 4.0, "code_sft_loss falls"),
        ("general_sft", "general_sft_loss", 4.2, "general_sft_loss falls"),
        ("dpo", "preference_accuracy", 0.5, "preference accuracy of dpo"),
        ("rpo_1", "preference_accuracy", 0.4, "preference accuracy of rpo_1"),
        ("reward_model", "reward_accuracy", 0.5, "reward model above chance"),
    ],
)
def test_a_check_fails_when_its_number_does_not_move(
    report, stage, measure, value, name
):
    """No change is a failure, too."""
    stages = {entry["name"]: entry for entry in report["stages"]}
    stages[stage]["metrics"][measure] = cell(value)
    (found,) = failed(report)
    assert found.startswith(name)


def test_validation_that_rises_along_pretraining_fails(report):
    report["validation"].reverse()
    assert len(failed(report)) == len(CLASSES)


def test_failed_checks_are_said_in_the_text(report):
    report["checks"] = [{"name": "this one", "holds": False}]
    assert reporting.text(report).splitlines()[-1] == "does not hold: this one"
    report["checks"][0]["holds"] = True
    assert "does not hold" not in reporting.text(report)


def test_table_shows_shares_in_percent_and_losses_as_they_are(report):
    lines = reporting.table(report).to_text().splitlines()
    cells = lines[-2].split()
    assert cells[0] == "rpo_1"
    assert cells[1:6] == ["2.800", "2.800", "2.800", "3.300", "3.600"]
    assert cells[6:8] == ["70.0", "±1.0"]
    assert lines[-1].split() == ["n", *["40"] * 8]


def test_page_escapes_text(report):
    report["checks"] = [{"name": "<i>x", "before": 1.0, "after": 2.0, "holds": True}]
    before = copy.deepcopy(report)
    page = reporting.page(report)
    assert "A &lt;b&gt;run&lt;/b&gt;" in page and "&lt;i&gt;x" in page
    assert "<b>run" not in page
    assert report == before

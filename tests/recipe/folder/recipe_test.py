"""All stages on a tiny data folder, through the script's own function."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from nemojax.io.workdir import WorkdirError
from nemojax.recipe.folder import report as reporting
from tests import scripts
from tests.recipe import usable
from tests.recipe.folder import real_folder

recipe = scripts.load("experiments.recipe")

TRAINED = ("pretrain", "reward_model", "code_sft", "general_sft", "dpo")
STAGES = ["untrained", "tokenizer", "tokens", *TRAINED, "rpo_1", "rpo_2"]
OTHERS = ("tokenizer", "tokens", "reward_model")
POLICIES = [name for name in STAGES if name not in OTHERS]
POLICY_MEASURES = [name for name, _, _ in reporting.COLUMNS[:-1]]

# Runs the stages in a process of their own, so that it can be killed.
SCRIPT = """
import sys
from experiments import recipe
from nemojax.cli import command
from tests.recipe.folder import real_folder
run = lambda: recipe.run_recipe(sys.argv[1], sys.argv[2], real_folder.settings())
sys.exit(command.main(run))
"""


pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return real_folder.write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(quick_compile, data, tmp_path_factory):
    """A finished run: its folder."""
    folder = tmp_path_factory.mktemp("run") / "work"
    assert recipe.run_recipe(str(data), str(folder), real_folder.settings()) == 0
    return folder


@pytest.fixture(scope="module")
def report(run):
    return json.loads((run / "report.json").read_text())


def results(report):
    """What must not depend on how often the run was interrupted."""
    return [
        (row["name"], row["metrics"], row.get("counts")) for row in report["stages"]
    ]


def test_every_policy_has_every_measure_with_its_interval(report):
    stages = {row["name"]: row for row in report["stages"]}
    assert list(stages) == STAGES
    for name in POLICIES:
        metrics = stages[name]["metrics"]
        assert sorted(metrics) == sorted(POLICY_MEASURES), name
        for cell in metrics.values():
            low, high = cell["interval"]
            assert cell["n"] > 1 and low <= cell["value"] <= high
    assert list(stages["reward_model"]["metrics"]) == ["reward_accuracy"]
    assert report["final"]["stage"] == "rpo_2"


def test_training_teaches(report):
    """Each stage lowers the held-out loss that it trains; checks say what holds."""
    held = {check["name"]: check["holds"] for check in report["checks"]}
    falling = [name for name in held if " fall" in name]
    assert len(falling) == 8
    assert [name for name in falling if not held[name]] == []


def test_validation_is_measured_along_pretraining(report, run):
    steps = [row["step"] for row in report["validation"]]
    assert steps == [4, 8, 12]
    english = [row["bits_per_byte_english"] for row in report["validation"]]
    assert english[-1] < english[0]


def test_comparisons_are_paired_on_all_held_out_pairs(report, run):
    outcomes = {
        name: json.loads((run / name / "result.json").read_text())["result"]["outcomes"]
        for name in ("general_sft", "dpo", "rpo_1", "rpo_2")
    }
    found = [(row["before"], row["after"]) for row in report["comparisons"][::2]]
    assert found == [
        ("general_sft", "dpo"), ("dpo", "rpo_1"), ("rpo_1", "rpo_2"),
        ("general_sft", "rpo_2"),
    ]  # fmt: skip
    for row in report["comparisons"]:
        before, after = (outcomes[row[k]][row["measure"]] for k in ("before", "after"))
        assert row["won"] - row["lost"] == sum(after) - sum(before)
        assert row["n"] == len(before) == len(after)


def test_rows_that_were_not_used_are_told(report, run):
    assert report["quarantine"] == {"rows": 1, "reasons": {"identical responses": 1}}
    (line,) = (run / "rejects.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row["file"].endswith("hh_small.jsonl.gz") and row["row"] == 4
    counts = {row["name"]: row.get("counts") for row in report["stages"]}
    assert counts["code_sft"]["longer than the limit"] == 1
    assert counts["dpo"]["longer than the limit"] > 0
    assert counts["general_sft"]["replayed"] > 0


def test_table_and_page_show_all_stages(report):
    text = reporting.text(report)
    assert [line.split()[0] for line in text.splitlines()[2:13]] == [*STAGES, "n"]
    page = reporting.page(report)
    for name in STAGES:
        assert f'<th scope="row">{name}</th>' in page
    assert "http" not in page and "<script" not in page


def test_finished_run_is_read_not_repeated(data, run, report, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.glob("*/model/**/*")}
    recipe.run_recipe(str(data), str(run), real_folder.settings(), json_path="-")
    after = {path: path.stat().st_mtime_ns for path in run.glob("*/model/**/*")}
    assert before == after
    captured = capsys.readouterr()
    assert json.loads(captured.out) == report
    last = captured.err.splitlines()[-1]
    assert f"{run}/rpo_2/model" in last and "rows quarantined: 1 (" in last


def test_another_seed_is_refused_and_nothing_changes(data, run):
    before = sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*") if p.is_file())
    with pytest.raises(WorkdirError, match=r"seed: 0 -> 1"):
        recipe.run_recipe(str(data), str(run), real_folder.settings(seed=1))
    after = sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*") if p.is_file())
    assert before == after


def test_changed_data_is_refused(run, tmp_path):
    data = real_folder.write(tmp_path / "data")
    path = data / "sft/chat.jsonl"
    path.write_text(path.read_text().replace("river", "stream"))
    with pytest.raises(WorkdirError, match=r"sft/chat\.jsonl: '\d+ bytes, sha256"):
        recipe.run_recipe(str(data), str(run), real_folder.settings())


def test_the_reward_model_is_measured_on_all_held_out_pairs(report):
    """Its accuracy over both sets is the mean over all their pairs."""
    found = report["reward_model"]
    whole, parts = found["all"], (found["preferences"], found["reward_pairs"])
    assert whole["n"] == sum(part["n"] for part in parts)
    right = sum(part["value"] * part["n"] for part in parts)
    assert whole["value"] == pytest.approx(right / whole["n"])
    reward_model = next(r for r in report["stages"] if r["name"] == "reward_model")
    assert reward_model["metrics"]["reward_accuracy"] == whole


class TestTheModelOfTheRun(usable.Usable):
    """The last policy's."""


def start(data: pathlib.Path, folder: pathlib.Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(data), str(folder)],
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[3])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_killed_run_goes_on_to_the_same_table(data, tmp_path):
    """Killed in pretraining and in DPO, the run ends as one that was not."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(data, whole).wait() == 0
    for stage in ("pretrain", "dpo"):
        process = start(data, killed)
        while not (killed / f"{stage}.partial" / "metrics.jsonl").exists():
            assert process.poll() is None, "the run ended too early to be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert (killed / f"{stage}.partial").exists()
    assert start(data, killed).wait() == 0
    found = [json.loads((path / "report.json").read_text()) for path in (whole, killed)]
    assert results(found[0]) == results(found[1])
    assert found[0]["final"] == found[1]["final"]
    assert found[0]["comparisons"] == found[1]["comparisons"]

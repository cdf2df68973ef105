"""The miniature recipe end to end, small: its report, and what survives a kill."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.recipe import micro, usable

STAGES = (
    "tokenizer",
    "pretrain",
    "teacher",
    "reward_model",
    "synthetic_data",
    "code_sft",
    "general_sft",
    "policy_reward_model",
    "dpo",
    "rpo_1",
    "unfiltered_code_sft",
    "unfiltered_sft",
    "control_dpo",
    "control_rpo_1",
)


pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def run(quick_compile, tmp_path_factory):
    """A finished run: its folder."""
    folder = tmp_path_factory.mktemp("micro")
    micro.run(folder)
    return folder


@pytest.fixture(scope="module")
def report(run):
    return json.loads((run / "report.json").read_text())


def test_every_stage_finishes_once(run):
    finished = sorted(path.name for path in run.iterdir() if path.is_dir())
    assert finished == sorted(STAGES)


def test_report_has_a_row_for_every_model_and_marks_the_controls(report):
    names = [stage["name"] for stage in report["stages"]]
    assert names[:5] == ["Base", "Code SFT", "General SFT", "DPO", "RPO 1"]
    controls = {stage["name"] for stage in report["stages"] if stage.get("control")}
    assert controls == set(names[5:])
    assert {"value", "n", "interval"} <= report["stages"][0]["metrics"]["math"].keys()


def test_every_family_is_evaluated_on_all_its_held_out_tasks(report):
    for stage in report["stages"]:
        for family in ("math", "code", "instruction"):
            assert stage["metrics"][family]["n"] == micro.SETTINGS.eval_tasks


def test_the_page_shows_the_stages(run):
    page = (run / "report.html").read_text()
    assert "General SFT" in page and "chosen only" in page


def test_a_second_run_trains_nothing_and_says_the_same(run, report):
    before = {path: path.stat().st_mtime_ns for path in run.glob("*/result.json")}
    assert micro.run(run) == report
    assert before == {path: path.stat().st_mtime_ns for path in before}


class TestTheModelOfTheRun(usable.Usable):
    """The last policy's."""


def _comparable(report):
    """A report without what a clock decides."""
    report = dict(report)
    for key in ("times", "highlights", "curves"):
        report.pop(key)
    report["stages"] = [
        {key: value for key, value in stage.items() if key != "seconds"}
        for stage in report["stages"]
    ]
    return report


def _start(path):
    flags = "--xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.recipe.micro", str(path)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs, and what they start, ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _begun(path, stage):
    return ((path / name).exists() for name in (stage, f"{stage}.partial"))


def _interrupt(path, stage, number):
    """Starts the program, sends a signal as soon as a stage began; status, stderr."""
    process = _start(path)
    try:
        deadline = time.monotonic() + 120
        # Some stages take less than a look: the signal then comes in the next one.
        while not any(_begun(path, stage)):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, f"{stage} does not start"
            time.sleep(0.01)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_in_every_stage_the_table_is_that_of_an_uninterrupted_run(
    tmp_path, number
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert _start(whole).wait(timeout=300) == 0
    for stage in STAGES:
        if any(_begun(broken, stage)):
            continue  # the signal for a stage before it came in this one
        status, stderr = _interrupt(broken, stage, number)
        if number == signal.SIGINT:
            assert status == 130, stderr
            assert "run the same command again" in stderr
        else:
            assert status == -number
    assert _start(broken).wait(timeout=300) == 0
    reports = [json.loads((p / "report.json").read_text()) for p in (whole, broken)]
    assert _comparable(reports[0]) == _comparable(reports[1])

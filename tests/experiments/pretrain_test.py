"""The pretraining program: its plan, its flags, and what it refuses."""

import json
import subprocess
import sys

import pytest


def pretrain(*flags):
    return subprocess.run(
        [sys.executable, "-m", "experiments.pretrain", *flags],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_dry_run_of_340b_prints_the_three_phases_of_the_report():
    done = pretrain("--model=nemotron4_340b", "--dry_run", "--json=-")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [phase["steps"] for phase in found["phases"]] == [63_579, 31_789, 805_325]
    assert [phase["tokens_per_step"] for phase in found["phases"]] == [
        3_145_728,
        6_291_456,
        9_437_184,
    ]
    assert found["parameters"] == 341_029_195_776
    assert found["checkpoint_bytes"] == 12 * found["parameters"]
    assert found["phases"][-1]["learning_rate_last"] == 1e-5
    for text in ("63,579", "31,789", "805,325", "4,092.4 GB", "3,906,252"):
        assert text in done.stderr


def test_a_value_on_the_command_line_changes_the_preset():
    done = pretrain(
        "--model=nemotron4_15b", "--dry_run", "--json=-", "--learning_rate.peak=1e-3"
    )
    found = json.loads(done.stdout)
    assert found["phases"][0]["batch"] == 384
    assert max(p["learning_rate_first"] for p in found["phases"]) == pytest.approx(
        1e-3, rel=2e-3
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--dry_run", "--preset=gpt"),
            "--preset=gpt is none of nemotron4_340b_pretrain",
        ),
        (("--data=nowhere", "--workdir=run"), "nowhere: no tokenized text there"),
    ],
)
def test_what_cannot_be_done_ends_with_one_line(flags, message, tmp_path):
    done = pretrain(*flags)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr

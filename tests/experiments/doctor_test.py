"""The examination of a machine as a command, on a machine without a GPU."""

import json
import subprocess
import sys

import pytest

from nemojax.models import presets


def doctor(*flags):
    return subprocess.run(
        [sys.executable, "-m", "experiments.doctor", "--seconds=0", *flags],
        capture_output=True,
        text=True,
    )


def test_the_keys_that_programs_rely_on():
    done = doctor("--model=minitron_4b", "--dtype=float32", "--length=128", "--json=-")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert found["machine"]["versions"]["jaxlib"]
    assert {device["platform"] for device in found["machine"]["devices"]} == {"cpu"}
    assert found["attention"]["taken"] == "blocks"
    assert found["attention"]["others"].keys() == {"cudnn", "splash"}
    assert found["attention"]["length"] == 128
    assert found["memory"]["weights_bytes"] == 4 * found["memory"]["parameters"]
    assert "rates" not in found


def test_a_machine_without_a_gpu_is_fit_and_says_what_one_would_need():
    done = doctor()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "fit"
    assert lines[-2].startswith("for a GPU    jax[cuda13] with driver 580 or newer")


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--model=nemotron4_340b"], 1, "the weights of nemotron4_340b in bfloat16 do"),
        (["--model=abacus"], 2, "unknown model 'abacus'"),
    ],
)
def test_what_cannot_be_done_is_told(flags, status, message):
    done = doctor(*flags)
    assert done.returncode == status
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_folder_is_looked_at_without_its_weights(tmp_path):
    from nemojax.interop import config_json

    described = config_json.to_json(presets.miniature())
    (tmp_path / "config.json").write_text(json.dumps(described))
    found = json.loads(doctor(f"--model={tmp_path}", "--json=-").stdout)
    assert found["attention"]["length"] == presets.miniature().max_positions

"""The examination of a machine as a command, on a machine without a GPU."""

import json

import pytest
from absl import flags

from nemojax.cli import command
from nemojax.interop import config_json
from nemojax.models import presets
from tests import scripts


@pytest.fixture
def doctor(capsys):
    """Runs the script; returns its exit status and what it printed."""

    def run(*given):
        script = scripts.load("experiments.doctor")
        flags.FLAGS(["doctor", "--seconds=0", *given])
        return command.main(script.run, unfit=True), *capsys.readouterr()

    yield run
    scripts.forget()


def test_the_keys_that_programs_rely_on(doctor):
    status, out, _ = doctor(
        "--model=minitron_4b", "--dtype=float32", "--length=128", "--json=-"
    )
    assert status == 0
    found = json.loads(out)
    assert found["problems"] == []
    assert found["machine"]["versions"]["jaxlib"]
    assert {device["platform"] for device in found["machine"]["devices"]} == {"cpu"}
    assert found["attention"]["taken"] == "blocks"
    assert found["attention"]["others"].keys() == {"cudnn", "splash"}
    assert found["attention"]["length"] == 128
    assert found["memory"]["weights_bytes"] == 4 * found["memory"]["parameters"]
    assert "rates" not in found


def test_a_machine_without_a_gpu_is_fit_and_says_what_one_would_need(doctor):
    status, out, _ = doctor("--seconds=1e-9")
    assert status == 0
    *lines, needs, last = out.splitlines()
    assert last == "fit"
    assert needs.startswith("for a GPU    jax[cuda13] with driver 580 or newer")
    assert any("float32: " in line and "TFLOP/s" in line for line in lines)


@pytest.mark.parametrize(
    ("model", "status", "message"),
    [
        ("nemotron4_340b", 1, "NOT FIT      the weights of nemotron4_340b in bfloat16"),
        ("abacus", 2, "unknown model 'abacus'"),
    ],
)
def test_what_cannot_be_done_is_told(model, status, message, doctor):
    found, *texts = doctor(f"--model={model}")
    assert found == status
    assert message in "".join(texts)


def test_a_model_folder_is_looked_at_without_its_weights(doctor, tmp_path):
    described = config_json.to_json(presets.miniature())
    (tmp_path / "config.json").write_text(json.dumps(described))
    _, out, _ = doctor(f"--model={tmp_path}", "--json=-")
    assert json.loads(out)["attention"]["length"] == presets.miniature().max_positions

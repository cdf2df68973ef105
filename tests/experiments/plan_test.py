"""The planner as a command: what it prints, its JSON, and how it ends."""

import json
import subprocess
import sys

import pytest

TABLE_2 = (
    "--model=nemotron4_340b",
    "--parallel.data=16",
    "--parallel.pipe=12",
    "--parallel.tensor=8",
    "--parallel.virtual_stages=8",
    "--batch=768",
)


def plan(*flags):
    return subprocess.run(
        [sys.executable, "-m", "experiments.plan", *flags],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_keys_that_programs_rely_on(tmp_path):
    plot = tmp_path / "plan.svg"
    done = plan(
        *TABLE_2,
        "--json=-",
        "--tokens=8e12",
        "--price_per_gpu_hour=2.5",
        f"--plot={plot}",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["parameters"] == {
        "embedding": 9_437_184_000,
        "non_embedding": 331_592_011_776,
        "total": 341_029_195_776,
    }
    assert found["flops_per_sequence"] == pytest.approx(8.6212e15, rel=1e-4)
    parts = (found["memory"][name] for name in ("weights", "optimizer", "gradients"))
    assert 0 < sum(parts) < found["memory"]["per_device_bytes"] < 80e9
    assert found["memory"]["fits"]
    prediction = found["prediction"]
    assert prediction["step_seconds"] == pytest.approx(9, rel=0.1)
    assert 0.47 < prediction["mfu"] < 0.6
    steps = 8e12 / 768 / 4096
    days = steps * prediction["step_seconds"] / 86_400
    assert prediction["days"] == pytest.approx(days, rel=1e-3)
    assert prediction["device_hours"] == pytest.approx(days * 24 * 1536, rel=1e-3)
    assert prediction["cost"] == pytest.approx(days * 24 * 1536 * 2.5, rel=1e-3)
    assert plot.read_text().startswith("<?xml")


def test_all_assumptions_are_printed_and_can_be_changed():
    done = plan(*TABLE_2, "--assume.efficiency=0.5")
    assert done.returncode == 0, done.stderr
    assert "assumed: efficiency=0.5, memory_efficiency=0.8" in done.stdout
    assert "fits (92% can be used)" in done.stdout


def test_what_does_not_fit_says_by_how_much_and_what_would():
    done = plan(*TABLE_2, "--parallel.remat=none")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "GiB too much on each device, most of it activations" in line
    assert line.endswith("the nearest layout that fits: remat=mlp_preactivation")


def test_a_search_prints_the_best_layouts_and_plans_the_first():
    done = plan("--model=llama31_8b", "--search=8", "--batch=64")
    assert done.returncode == 0, done.stderr
    table, commands, rest = done.stdout.split("\n\n", 2)
    assert len(table.splitlines()) == 11
    lines = {line.split(" ", 2)[-1] for line in commands.splitlines()}
    assert len(lines) == 10 and all("--parallel." in line for line in lines)
    assert rest.startswith("8,030,261,248 parameters")


@pytest.mark.parametrize(
    "flags",
    [
        ("--model=llama31_8b", "--parallel.data=8", "--batch=256"),
        ("--model=nemotron4_340b", "--batch=1536", "--search=1024"),
    ],
)
def test_the_command_that_is_printed_has_the_bytes_and_the_step_of_the_plan(flags):
    found = json.loads(plan(*flags, "--json=-").stdout)
    script = found["command"].split()[1:]
    command = [sys.executable, *script, "--dry_run", "--json=-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (phase,) = json.loads(done.stdout)["phases"]
    assert phase["batch"] == found["layout"]["global_batch"]
    assert phase["passes"] == found["layout"]["passes"]
    assert phase["per_device_bytes"] == found["memory"]["per_device_bytes"]
    assert phase["step_seconds"] == found["prediction"]["step_seconds"]


def test_serving_says_what_fits_and_what_does_not():
    flags = ("--parallel.tensor=8", "--slots=32", "--json=-")
    done = plan("--serve=fp8", *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["memory"]["fits"]
    assert "131,072 tokens planned" in done.stderr
    done = plan("--serve=bf16", *flags)
    assert done.returncode == 1
    assert "most of it weights" in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=nemotron5"], "nemotron5"),
        (["--hardware=abacus"], "--hardware=abacus is none of h100"),
        (["--parallel.tensor=3"], "tensor=3 does not divide num_kv_heads=8"),
        (["--serve=fp8", "--parallel.pipe=2"], "--serve takes no pipeline"),
        (["--search=2"], "no layout of 2 x NVIDIA H100 80GB HBM3 fits nemotron4_340b"),
        (["--model=llama31_8b", "--search=1", "--batch=64"], "take 2 devices"),
        (["--price_per_gpu_hour=2"], "--price_per_gpu_hour needs --tokens"),
    ],
)
def test_what_cannot_be_planned_ends_with_one_line(flags, message):
    done = plan(*flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr

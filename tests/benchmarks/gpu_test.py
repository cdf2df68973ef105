"""The benchmark of a GPU, at sizes of a CPU: parts that fail cost nothing else."""

import json
import subprocess
import sys

import pytest

from benchmarks.gpu.job import Job

# What `layers` has measured elsewhere.
_EARLIER = {
    "device": "NVIDIA H100 80GB HBM3",
    "parts": {
        "layers": {
            "rows": [
                {"what": what, "remat": "full", "rows": 1, "passes": 1, "ms": 2.0}
                | {"gib": 0.01}
                for what in ("pass", "step")
            ]
            + [{"what": "pass", "remat": "none", "failed": "out of memory"}]
        }
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose first part has no time; the process, and what the file holds."""
    folder = tmp_path_factory.mktemp("gpu")
    measured, file = folder / "measured.json", folder / "gpu.json"
    measured.write_text(json.dumps(_EARLIER))
    command = [sys.executable, "-m", "benchmarks.gpu", "--small", f"--json={file}"]
    command += ["--parts=attention,ceilings,planner", "--limit=attention=0"]
    command += [f"--measured={measured}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done, json.loads(file.read_text())


def test_a_part_without_time_says_so_and_the_others_run(run):
    done, found = run
    attention = found["parts"].pop("attention")
    assert attention.pop("seconds") >= 0
    assert attention == {"rows": [], "failed": "out of time after 0 s"}
    assert "failed: out of time after 0 s" in done.stdout
    assert list(found["parts"]) == ["ceilings", "planner"]
    for part in found["parts"].values():
        assert part["rows"] and "failed" not in part
        assert not any("failed" in row for row in part["rows"])


def test_the_file_says_where_it_comes_from(run):
    _, found = run
    assert found["device"] == found["platform"] == "cpu"
    assert found["versions"].keys() == {"jax", "jaxlib", "torch"}
    assert found["versions"]["jax"] and found["date"]
    assert "--limit=attention=0" in found["command"]


def test_rows_of_a_part_have_the_same_keys(run):
    _, found = run
    keys = {"what", "ms", "median_ms", "rate", "unit"}
    assert all(row.keys() == keys for row in found["parts"]["ceilings"]["rows"])
    one, step = found["parts"]["planner"]["rows"]
    assert one.keys() == step.keys()
    assert one["predicted_for"] == step["predicted_for"] == "h100"


def test_predictions_stand_beside_what_was_measured(run):
    _, found = run
    one, step = found["parts"]["planner"]["rows"]
    for row in (one, step):
        for name in ("ms", "gib"):
            off = row[f"predicted_{name}"] / row[f"measured_{name}"] - 1
            assert row[f"{name}_off_percent"] == pytest.approx(100 * off)
    # A step is a pass and AdamW.
    assert one["predicted_ms"] < step["predicted_ms"]
    assert one["predicted_gib"] < step["predicted_gib"]


@pytest.mark.parametrize("flag", ["--parts=layer", "--limit=layers=long"])
def test_a_part_or_limit_that_there_is_not_is_refused(flag):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", flag], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert flag.partition("=")[2].partition("=")[0] in done.stdout + done.stderr


def test_a_case_that_fails_leaves_its_reason_and_the_rows_beside_it(tmp_path):
    job = Job(tmp_path / "rows", True, {"rows": {}, "device": None})

    def fails():
        raise MemoryError("no room\nfor a second line")

    job.measure({"case": 1}, lambda: {"ms": 2})
    job.measure({"case": 2}, fails)
    job.measure({"case": 3}, lambda: {"ms": 4})
    rows = [json.loads(line) for line in (tmp_path / "rows").open()]
    assert rows == [
        {"case": 1, "ms": 2},
        {"case": 2, "failed": "MemoryError: no room"},
        {"case": 3, "ms": 4},
    ]

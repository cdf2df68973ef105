"""The launch files: what they set is what the code reads, and one of them runs here."""

import os
import pathlib
import subprocess
import sys

import pytest
import yaml

from nemojax.parallel import distributed, xla_flags

LAUNCH = pathlib.Path(__file__).parents[2] / "experiments" / "launch"


@pytest.mark.parametrize("hardware", xla_flags.FLAGS)
def test_jaxlib_knows_every_flag(hardware):
    """It ends the process at the first use of a device otherwise."""
    done = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env=os.environ | {"XLA_FLAGS": xla_flags.text(hardware)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_jaxlib_would_not_take_another():
    done = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env=os.environ | {"XLA_FLAGS": "--xla_gpu_no_such_flag=1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "no_such_flag" in done.stderr


def test_unknown_hardware_is_named():
    with pytest.raises(ValueError, match="no flags for 'abacus'; there are h100"):
        xla_flags.text("abacus")


def test_kubernetes_sets_what_is_read():
    jobset = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    values = {one["name"]: one.get("value", "0") for one in container["env"]}
    found = distributed.detect(environment=values)
    assert found.kind == "environment"
    assert found.num_processes == spec["completions"] == spec["parallelism"]
    name, worker = jobset["metadata"]["name"], job["name"]
    assert found.coordinator_address == f"{name}-{worker}-0-0.{name}:8476"


@pytest.mark.parametrize("file", ["local.sh", "slurm.sbatch"])
def test_shell_files_are_sound(file):
    done = subprocess.run(["bash", "-n", LAUNCH / file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def local(folder, count, script):
    """`local.sh` with that many Python processes."""
    return subprocess.run(
        [LAUNCH / "local.sh", str(count), sys.executable, "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_local_processes_are_numbered_and_joined(tmp_path):
    script = (
        "import os; print(*(os.environ[n] for n in ('NUM_PROCESSES', 'PROCESS_ID')))"
    )
    done = local(tmp_path, 3, script)
    assert done.returncode == 0, done.stderr
    logs = [(tmp_path / f"local-{n}.log").read_text() for n in (1, 2)]
    assert [done.stdout, *logs] == ["3 0\n", "3 1\n", "3 2\n"]


def test_a_local_process_that_fails_ends_all(tmp_path):
    script = (
        "import os, time; os.environ['PROCESS_ID'] == '1' and exit(7); time.sleep(60)"
    )
    done = local(tmp_path, 2, script)
    assert done.returncode == 7

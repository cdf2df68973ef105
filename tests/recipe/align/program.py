"""The scripts of alignment as processes of their own."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[3]


def start(name, *arguments, devices=None):
    """A process of a script, with so many CPU devices; by default as users have it.

    It compiles in half the time, for slower programs.
    """
    environment = {
        "PYTHONPATH": os.pathsep.join(["", *sys.path]),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    if devices is not None:
        share = f"--xla_force_host_platform_device_count={devices}"
        environment["XLA_FLAGS"] = share
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process, status=0):
    """stdout and stderr of a process that ends with a status."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err
    return out, err


def result(process):
    """What --json=- prints."""
    return json.loads(ended(process)[0].splitlines()[-1])


def steps(workdir):
    """Rows of metrics of a run that is going on, and so removes and renames folders."""
    found = 0
    with contextlib.suppress(OSError):
        for path in workdir.rglob("metrics.jsonl"):
            found += path.read_text().count("\n")
    return found

"""Runs in processes of their own that are told to stop, or killed: they go on."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from nemojax.io import manifest
from nemojax.training import metrics

ROOT = pathlib.Path(__file__).parents[2]


def start(folder, steps, every, pause):
    command = [sys.executable, "-m", "tests.training.toy_run", str(folder)]
    return subprocess.Popen(
        [*command, str(steps), str(every), str(pause)],
        cwd=ROOT,
        # A shell's background jobs are started with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["", *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(*arguments):
    """The hash of the parameters that a run ends with."""
    process = start(*arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.split()[-1]


def last_step(folder):
    rows = metrics.read_metrics(folder / "metrics.jsonl")
    return rows[-1]["step"] if rows else 0


def wait_for_step(process, folder, step):
    deadline = time.monotonic() + 120
    while last_step(folder) < step:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_that_is_told_to_stop_saves_and_goes_on(tmp_path):
    whole = finished(tmp_path / "whole", 60, 25, 0.0)
    folder = tmp_path / "stopped"
    process = start(folder, 60, 25, 0.05)
    wait_for_step(process, folder, 5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    step = last_step(folder)
    assert f"stopped as requested after step {step} of 60" in err
    assert step < 25 and manifest.problems(folder / "checkpoints" / str(step)) == []
    assert finished(folder, 60, 25, 0.0) == whole


def interrupted(tmp_path, pause):
    """A run of 60 steps that got Ctrl-C after its fifth or later, and its folder."""
    folder = tmp_path / "interrupted"
    process = start(folder, 60, 25, pause)
    wait_for_step(process, folder, 5)
    process.send_signal(signal.SIGINT)
    return process, folder


def test_ctrl_c_loses_nothing_and_names_the_step_and_the_command(tmp_path):
    process, folder = interrupted(tmp_path, 0.05)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    step = last_step(folder)
    assert "stopping once this step is done and saved" in err
    assert f"stopped as requested after step {step} of 60, which is saved" in err
    assert f"python -m tests.training.toy_run {folder} 60 25 0.05" in err
    assert step < 25 and manifest.problems(folder / "checkpoints" / str(step)) == []
    whole = finished(tmp_path / "whole", 60, 25, 0.0)
    assert finished(folder, 60, 25, 0.0) == whole
    assert last_step(folder) == 60


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    """In a step that takes long."""
    process, folder = interrupted(tmp_path, 0.5)
    while "Ctrl-C again: at once" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted: run the same command again" in err
    assert "as requested" not in err
    assert not list((folder / "checkpoints").glob("[0-9]*"))


def wait_for_new_rows(process, folder):
    """A run that goes on begins a new file of metrics, with the rows that count."""

    def file():
        path = folder / "metrics.jsonl"
        return (path.stat().st_ino, path.stat().st_size) if path.exists() else (0, 0)

    inode, _ = file()
    while file()[0] == inode and process.poll() is None:
        time.sleep(0.005)
    _, size = file()
    while file()[1] == size and process.poll() is None:
        time.sleep(0.005)


@pytest.mark.slow
def test_fifty_kills_at_random_moments_change_nothing(tmp_path):
    """Inside of saves, of their checksums, and of deleting old ones, too. No more is
    lost than an interval, and what went by during a save: here at most another."""
    steps, every, pause = 1500, 5, 0.005
    whole = finished(tmp_path / "whole", steps, every, 0.0)
    rng, folder = random.Random(0), tmp_path / "killed"
    saves = folder / "checkpoints"
    in_a_save = 0
    for _ in range(50):
        process = start(folder, steps, every, pause)
        wait_for_new_rows(process, folder)
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run is too short"
        found = {p.name: manifest.parts(p) for p in saves.iterdir()}
        in_a_save += any(not parts for parts in found.values())
        newest = max((int(name) for name, parts in found.items() if parts), default=0)
        assert last_step(folder) - newest <= 2 * every
        assert manifest.problems(saves / str(newest)) == [] if newest else True
    assert in_a_save >= 10
    assert finished(folder, steps, every, 0.0) == whole
    assert not (saves / "damaged").exists()

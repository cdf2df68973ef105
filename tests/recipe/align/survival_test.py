"""Every stage as users run it, killed at random moments: the same parameters."""

import contextlib
import random
import signal
import time

import numpy as np
import pytest

from tests.recipe.align import program, toy

COMMON = (
    "--batch=6", "--epochs=4", f"--length={toy.LENGTH}",
    "--learning_rate.peak=3e-3", "--checkpoint_every=3", "--seed=3",
)  # fmt: skip
SCRIPTS = {
    "sft": (toy.demonstrations, ()),
    "train_reward": (toy.labels, ("--held_out_share=0.2", "--validate_every=4")),
    "dpo": (toy.pairs, ("--preference.beta=0.5", "--held_out_share=0.2")),
    "rpo": (toy.pairs, ("--preference.beta=0.5", "--iterations=2", "--epochs=2")),
    "dpo with adapters": (toy.pairs, ("--preference.beta=0.5", "--lora.rank=4")),
}


def start(name, folder, workdir, data):
    return program.start(
        name.split()[0], f"--model={folder}", f"--data={data}", f"--workdir={workdir}",
        "--json=-", *COMMON, *SCRIPTS[name][1],
    )  # fmt: skip


def lines(workdir):
    """How far a run has come: rows of metrics, and reference log-probs."""
    found = program.steps(workdir)
    with contextlib.suppress(OSError):
        for path in workdir.rglob("reference.bin"):
            found += int(np.count_nonzero(np.fromfile(path, np.float32)))
    return found


def kill_when_it_got_on(process, workdir, by, rng):
    """Kills a run that came so much further; tells whether it was still there."""
    before = lines(workdir)
    while process.poll() is None and lines(workdir) < before + by:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.1))
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "name",
    ["dpo", *(pytest.param(n, marks=pytest.mark.slow) for n in SCRIPTS if n != "dpo")],
)
def test_a_killed_stage_ends_with_the_same_parameters(folder, tmp_path, name):
    data = toy.write(tmp_path / "rows.jsonl", SCRIPTS[name][0](60))
    rng = random.Random(name)
    workdir = tmp_path / "killed"
    kills = sum(
        kill_when_it_got_on(
            start(name, folder, workdir, data), workdir, rng.randint(1, 12), rng
        )
        for _ in range(3)
    )
    assert kills, "the run was over before it could be killed"
    killed = program.result(start(name, folder, workdir, data))
    whole = program.result(start(name, folder, tmp_path / "whole", data))
    assert killed["final"] == whole["final"]
    assert killed["counts"] == whole["counts"]

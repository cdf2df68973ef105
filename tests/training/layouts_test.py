"""A layout is no part of the result: runs, checkpoints and processes agree."""

import dataclasses
import functools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from nemojax.io import manifest
from nemojax.models import forward
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from nemojax.training import (
    loop,
    metrics,
    objectives,
    optimizer,
    sources,
    step,
)
from tests.training import process_run, toy_run

# Vocabulary 29 is padded where tensor=2.
CONFIG = dataclasses.replace(
    toy_run.CONFIG, num_layers=4, vocab_size=29, num_kv_heads=2
)
PIPELINED = {"virtual_stages": 2, "zero": 1, "remat": "full"}


def trained(directory, layout, checkpoint_every=0, batches=None):
    objective = objectives.language_model_objective(CONFIG, layout)
    take_step = step.make_train_step(
        objective, optimizer.make_optimizer(toy_run.OPTIMIZER)
    )
    batches = batches or process_run.Batches()
    rate = functools.partial(toy_run.RATE.at, total=len(batches))
    run = loop.TrainingRun("toy", directory, layout, rate, checkpoint_every, CONFIG)
    params = jax.jit(forward.init, static_argnums=0)(CONFIG, jax.random.key(0))
    state = step.init_state(params, optimizer.make_optimizer(toy_run.OPTIMIZER))
    state, rows = loop.train(run, state, take_step, sources.Fixed(batches))
    return state.params, rows


def assert_near(one, other):
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Trained on one device."""
    return trained(tmp_path_factory.mktemp("single"), Layout())


@pytest.mark.parametrize("axes", [(2, 2, 2), (1, 2, 1)])
def test_a_pipelined_run_ends_with_the_parameters_of_one_device(tmp_path, single, axes):
    params, rows = trained(tmp_path, Layout(meshes.make_mesh(*axes), **PIPELINED))
    assert_near(params, single[0])
    for ours, theirs in zip(rows, single[1], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def test_a_checkpoint_of_one_layout_goes_on_in_another(tmp_path, single):
    """Four steps on one device, the rest through a pipeline of two stages."""

    class Stops(process_run.Batches):
        def __getitem__(self, k):
            if k == 5:
                raise KeyboardInterrupt
            return super().__getitem__(k)

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, Layout(), 4, Stops())
    layout = Layout(meshes.make_mesh(2, 2, 1), **PIPELINED)
    params, rows = trained(tmp_path, layout, 4)
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert_near(params, single[0])


def processes(count, axes, *arguments):
    """Starts that many, joined over the loopback; each has its share of the devices."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    share = np.prod(axes) // count
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={share}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(pathlib.Path(process_run.__file__).parents[2]),
    }
    return [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.training.process_run",
                address,
                str(count),
                str(number),
                ",".join(map(str, axes)),
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(count)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("axes", [(2, 1, 2), (2, 2, 1), (1, 2, 2)])
def test_processes_end_with_the_bits_of_one_process(axes):
    hashes = set()
    for count in (1, 2, 4):
        running = processes(count, axes)
        for process in running:
            out, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors[-2000:]
            hashes.add(out.split()[-1])
    assert len(hashes) == 1


@pytest.mark.slow
def test_a_killed_process_ends_the_others_with_an_error():
    running = processes(2, (2, 1, 1), "forever")
    survivor, victim = running
    assert survivor.stdout.readline().startswith("step")
    os.kill(victim.pid, signal.SIGKILL)
    _, errors = survivor.communicate(timeout=90)
    assert survivor.returncode != 0
    assert "process" in errors or "connection" in errors.lower()


@pytest.mark.slow
def test_told_to_stop_all_processes_save_one_step_and_any_number_goes_on(tmp_path):
    """SIGTERM to the second of two; then one process has the devices of both."""
    axes, folder = (2, 1, 2), tmp_path / "run"
    (whole,) = processes(1, axes, str(tmp_path / "whole"), "0")
    expected = whole.communicate(timeout=240)[0].split()[-1]
    running = processes(2, axes, str(folder), "0.3")
    deadline = time.monotonic() + 120
    while len(metrics.read_metrics(folder / "metrics.jsonl")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running[1].send_signal(signal.SIGTERM)
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors[-2000:]
        assert "stopped as requested after step" in errors
    newest = max(int(p.name) for p in (folder / "checkpoints").iterdir())
    saved = folder / "checkpoints" / str(newest)
    assert manifest.parts(saved) == 2 and manifest.problems(saved) == []
    (alone,) = processes(1, axes, str(folder), "0")
    assert alone.communicate(timeout=240)[0].split()[-1] == expected


@pytest.mark.slow
def test_a_fault_of_one_process_is_left_out_by_all(tmp_path):
    """The second of two has no finite loss in step 5: neither applies it."""
    axes, hashes = (2, 1, 1), {}
    for name, options in (("whole", []), ("spoiled", ["4"])):
        running = processes(2, axes, str(tmp_path / name), "0", *options)
        out = [process.communicate(timeout=240) for process in running]
        assert [process.returncode for process in running] == [0, 0], out
        hashes[name] = {text.split()[-1] for text, _ in out}
        assert len(hashes[name]) == 1
    assert hashes["whole"] != hashes["spoiled"]
    whole, spoiled = (
        metrics.read_metrics(tmp_path / name / "metrics.jsonl") for name in hashes
    )
    assert [row["step"] for row in spoiled if row.get("skipped")] == [5]
    for a, b in zip(whole[:4], spoiled[:4], strict=True):
        assert a["loss"] == b["loss"]
    assert spoiled[-1]["loss"] == pytest.approx(whole[-1]["loss"], rel=0.05)
    faults = (tmp_path / "spoiled" / "faults.jsonl").read_text().splitlines()
    assert len(faults) == 1 and json.loads(faults[0])["verdict"] == "reproducible"

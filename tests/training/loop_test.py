"""A run that is stopped and started again ends like one that was not."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from nemojax.parallel import fingerprint
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from nemojax.training import (
    goodput,
    loop,
    metrics,
    optimizer,
    placement,
    sources,
    step,
)
from tests.training import toy_run

pytestmark = pytest.mark.usefixtures("quick_compile")

ROOT = pathlib.Path(__file__).resolve().parents[2]


def lines(directory):
    """`metrics.jsonl` without the seconds, which no two runs share."""
    rows = metrics.read_metrics(directory / "metrics.jsonl")
    assert all(row.pop("seconds") >= 0 for row in rows)
    return rows


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(hash of the last parameters, metrics) of a run that nothing stopped."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    params, rows = toy_run.train(directory, toy_run.Batches())
    assert len(rows) == toy_run.STEPS
    return fingerprint.parameters_sha256(params), lines(directory)


def assert_ends_like(uninterrupted, directory, batches):
    """Run in a folder once more, bit for bit and line for line."""
    params, _ = toy_run.train(directory, batches)
    assert fingerprint.parameters_sha256(params) == uninterrupted[0]
    assert lines(directory) == uninterrupted[1]


def test_metrics_have_a_row_a_step_and_the_rate_of_the_schedule(uninterrupted):
    rows = uninterrupted[1]
    assert [row["step"] for row in rows] == list(range(1, 8))
    assert [row["learning_rate"] for row in rows] == [
        toy_run.RATE.at(k, 7) for k in range(7)
    ]
    assert all(row["weight"] == 4 * 11 and row["grad_norm"] > 0 for row in rows)


@pytest.mark.parametrize(("stop", "resumed"), [(2, 0), (3, 3), (5, 3), (6, 6)])
def test_a_stopped_run_goes_on_from_its_checkpoint(
    tmp_path, uninterrupted, stop, resumed
):
    """Checkpoints are at steps 3 and 6; earlier batches are not asked for again."""

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy_run.train(tmp_path, toy_run.Batches(stop, fail))
    batches = toy_run.Batches()
    assert_ends_like(uninterrupted, tmp_path, batches)
    assert batches.asked == list(range(resumed, 7))


def test_a_killed_process_leaves_a_run_that_goes_on(tmp_path, uninterrupted):
    """SIGKILL, in another process: nothing there has time to tidy up."""
    killed = subprocess.run(
        [sys.executable, "-m", "tests.training.toy_run", str(tmp_path), "5"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["", *sys.path])},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    # Step 5's batch is asked for while step 4 is taken, whose row may not be there yet.
    assert [row["step"] for row in lines(tmp_path)] in ([1, 2, 3], [1, 2, 3, 4])
    assert_ends_like(uninterrupted, tmp_path, toy_run.Batches())


@pytest.mark.slow
def test_a_step_that_hangs_ends_the_process_with_its_stacks(tmp_path):
    program = (
        "import dataclasses, pathlib, sys, time\n"
        "from nemojax.training import loop\n"
        "from tests.training import toy_run\n"
        "made = loop.TrainingRun\n"
        "loop.TrainingRun = lambda *a: dataclasses.replace(made(*a), hang_seconds=20)\n"
        "batches = toy_run.Batches(3, lambda: time.sleep(600))\n"
        "toy_run.train(pathlib.Path(sys.argv[1]), batches)\n"
    )
    hung = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["", *sys.path])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert hung.returncode == 1
    assert "Timeout" in hung.stderr and "_batch" in hung.stderr


def test_the_time_of_a_run_is_told_by_kind(tmp_path):
    toy_run.train(tmp_path, toy_run.Batches(pause=0.02))
    seconds = goodput.total(tmp_path)
    assert set(seconds) == set(goodput.KINDS)
    assert seconds["compile"] + seconds["start"] > 0 and seconds["save"] > 0
    assert seconds["lost"] == 0
    for path in (tmp_path / "checkpoints").iterdir():
        if path.name == "6":
            shutil.rmtree(path)  # as if it had never been saved: three steps are lost
    toy_run.train(tmp_path, toy_run.Batches())
    assert goodput.total(tmp_path)["lost"] > 0
    assert goodput.text(seconds).startswith("productive ")


def test_a_second_run_in_the_folder_repeats_the_steps_after_the_checkpoint(
    tmp_path, uninterrupted
):
    toy_run.train(tmp_path, toy_run.Batches())
    batches = toy_run.Batches()
    assert_ends_like(uninterrupted, tmp_path, batches)
    assert batches.asked == [6]


def test_without_checkpoints_a_run_starts_again(tmp_path, uninterrupted):
    for _ in range(2):
        batches = toy_run.Batches()
        params, rows = toy_run.train(tmp_path, batches, checkpoint_every=0)
        assert batches.asked == list(range(7))
        assert len(rows) == 7
        assert fingerprint.parameters_sha256(params) == uninterrupted[0]
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["goodput.jsonl", "metrics.jsonl"]


def test_the_state_lives_where_the_parameters_live():
    """tensor=2: each device holds half of a matrix and of its moments."""
    layout = Layout(meshes.make_mesh(tensor=2))
    params = {"layers": {"mlp": {"up": np.zeros((1, 4, 8), np.float32)}}}
    state = step.init_state(params, optimizer.make_optimizer(toy_run.OPTIMIZER))
    placed = jax.device_put(state, placement.state_shardings(state, layout))
    matrices = [leaf for leaf in jax.tree.leaves(placed) if leaf.ndim == 3]
    assert len(matrices) == 3  # the parameter and two moments
    for leaf in matrices:
        assert leaf.addressable_shards[0].data.shape == (1, 4, 4)


def test_the_parameters_given_are_not_changed(tmp_path):
    params = {"mlp": {"up": np.ones((1, 4, 8), np.float32)}}
    given = jax.device_put(params)

    def take_step(state, batch, rate):
        moved = jax.tree.map(lambda p: p - rate * batch.sum(), state.params)
        scalars = {"loss": np.float32(1)}
        return state._replace(params=moved, step=state.step + 1), scalars

    run = loop.TrainingRun("x", tmp_path, Layout(), lambda k: 1e-2)
    state = step.init_state(given, optimizer.make_optimizer(toy_run.OPTIMIZER))
    batches = sources.Fixed([np.ones((2, 2), np.float32)])
    after, rows = loop.train(run, state, take_step, batches)
    np.testing.assert_array_equal(given["mlp"]["up"], 1)
    assert (np.asarray(after.params["mlp"]["up"]) < 1).all()
    assert [row["loss"] for row in rows] == [1.0]


def test_data_that_fill_no_batch_are_refused(tmp_path):
    with pytest.raises(ValueError, match="do not fill one batch"):
        toy_run.train(tmp_path, [])

"""A loop that asks for batches of the newest parameters, and goes on bit for bit."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from nemojax.models import partition
from nemojax.parallel import fingerprint
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from nemojax.training import loop, metrics, optimizer, step
from tests.training import on_policy_run, toy_run
from tests.training.on_policy_run import Rollouts

pytestmark = pytest.mark.usefixtures("quick_compile")

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = on_policy_run.STEPS
# Vocabulary 29 is padded where tensor=2.
CONFIG = dataclasses.replace(
    toy_run.CONFIG, num_layers=2, vocab_size=29, num_kv_heads=2
)


def untimed(rows):
    """Metrics without the seconds, which no two runs share."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(source, hash of the last parameters, metrics) of a run that nothing stopped."""
    source = Rollouts()
    params, rows = on_policy_run.train(tmp_path_factory.mktemp("whole"), source)
    return source, fingerprint.parameters_sha256(params), untimed(rows)


def test_each_batch_is_made_of_the_parameters_before_its_step(whole):
    """The run is a plain loop of one batch and one step, bit for bit."""
    source = Rollouts()
    state, take_step = on_policy_run.start(), on_policy_run.step_of()
    for k in range(STEPS):
        batch = source.batch(k, state.params)
        state, _ = take_step(state, batch, np.float32(on_policy_run.rate(k)))
    assert whole[0].asked == list(range(STEPS))
    assert whole[0].rewards == source.rewards
    assert whole[1] == fingerprint.parameters_sha256(state.params)


def test_a_policy_that_learns_of_its_best_samples_gets_better(whole):
    rewards = whole[0].rewards
    assert sum(rewards[-3:]) > 2 * sum(rewards[:3])


def resumed(folder, whole):
    """Goes on in a folder to where `whole` ended; returns the steps done before."""
    source = Rollouts()
    params, rows = on_policy_run.train(folder, source)
    after = source.asked[0]
    assert source.asked == list(range(after, STEPS))
    assert source.rewards == whole[0].rewards[after:]
    assert fingerprint.parameters_sha256(params) == whole[1]
    assert untimed(rows) == whole[2]
    return after


@pytest.mark.parametrize(("stop", "after"), [(3, 0), (5, 5), (9, 5), (11, 10)])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, whole, stop, after):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        on_policy_run.train(tmp_path, Rollouts(stop, interrupt))
    assert resumed(tmp_path, whole) == after


def test_a_killed_run_goes_on_bit_for_bit(tmp_path, whole):
    """SIGKILL, in another process, while the batch of step 8 is made."""
    killed = subprocess.run(
        [sys.executable, "-m", "tests.training.on_policy_run", str(tmp_path), "8"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["", *sys.path])},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    left = metrics.read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in left] == list(range(1, 8))
    # The checkpoint of step 5 may have been on its way to the disk.
    assert resumed(tmp_path, whole) in (0, 5)


class Counted:
    """Batches of ones; the parameters of its run count the steps that were applied."""

    def __init__(self, on_policy):
        self.on_policy, self.given = on_policy, []
        self.asked = [threading.Event() for _ in range(4)]

    def __len__(self):
        return len(self.asked)

    def batch(self, k, params):
        self.asked[k].set()
        self.given.append(None if params is None else int(params["count"]))
        return np.ones((2, 2), np.float32)


def counted(directory, source, take_step):
    run = loop.TrainingRun("x", directory, Layout(), lambda k: 1e-2)
    adam = optimizer.make_optimizer(toy_run.OPTIMIZER)
    state = step.init_state({"count": np.zeros((), np.float32)}, adam)
    return loop.train(run, state, take_step, source)


def stepped(state, skipped=False):
    params = jax.tree.map(lambda leaf: leaf + (not skipped), state.params)
    one = np.float32(1)
    scalars = {"loss": one, "grad_norm": one, "skipped": np.float32(skipped)}
    return state._replace(params=params, step=state.step + 1), scalars


def test_a_fixed_batch_is_made_during_the_step_before_it(tmp_path):
    """Each step waits for the batch of the next one, which is not told parameters."""
    source = Counted(on_policy=False)

    def take_step(state, batch, rate):
        following = int(state.step) + 1
        assert following == 4 or source.asked[following].wait(60)
        return stepped(state)

    counted(tmp_path, source, take_step)
    assert source.given == [None] * 4


def test_an_on_policy_batch_is_made_after_the_step_before_it(tmp_path):
    source = Counted(on_policy=True)

    def take_step(state, batch, rate):
        assert [asked.is_set() for asked in source.asked] == [
            k <= int(state.step) for k in range(4)
        ]
        return stepped(state)

    counted(tmp_path, source, take_step)
    assert source.given == [0, 1, 2, 3]


def test_a_step_that_is_not_applied_is_repeated_on_the_batch_that_it_had(tmp_path):
    """Its batch cannot be made again: the parameters of its step are gone."""
    source, steps = Counted(on_policy=True), []

    def take_step(state, batch, rate):
        steps.append(int(state.step))
        return stepped(state, skipped=len(steps) == 2)

    counted(tmp_path, source, take_step)
    # The report of the second step is late by one: it is taken again after the third.
    assert steps == [0, 1, 2, 3, 3]
    assert source.given == [0, 1, 1, 2]
    rows = metrics.read_metrics(tmp_path / "metrics.jsonl")
    assert [row.get("skipped", False) for row in rows] == [False, True, False, False]


@pytest.mark.parametrize(
    ("axes", "options"),
    [
        pytest.param((2, 1, 2), {"zero": 3}, marks=pytest.mark.slow),
        ((1, 2, 2), {"zero": 1}),
    ],
)
def test_parameters_come_in_the_shape_of_the_layout(tmp_path, axes, options):
    """And the samples are those of one device, as is what is learnt of them."""
    layout = Layout(meshes.make_mesh(*axes), **options)
    source, plain = Rollouts(config=CONFIG, layout=layout), Rollouts(config=CONFIG)
    params, _ = on_policy_run.train(tmp_path / "mesh", source, CONFIG, layout)
    single, _ = on_policy_run.train(tmp_path / "plain", plain, CONFIG)

    shapes = jax.eval_shape(lambda p: partition.pack(CONFIG, p, layout), single)
    shardings = partition.param_shardings(shapes, layout)
    expected = jax.tree.map(lambda leaf, how: (leaf.shape, how), shapes, shardings)
    assert source.given == expected
    assert source.given != plain.given
    assert source.rewards == plain.rewards
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-4),
        params,
        single,
    )

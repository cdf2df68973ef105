"""A step that is not finite, or a spike, changes nothing, and is told of."""

import json

import jax
import numpy as np
import pytest

from nemojax.models import forward
from nemojax.parallel import fingerprint
from nemojax.training import faults, metrics, optimizer, step
from nemojax.training.stopping import Diverged
from tests.training import toy_run

pytestmark = pytest.mark.usefixtures("quick_compile")


class Faulty(toy_run.Batches):
    """Batches of which some are spoiled; those in `once` only the first time."""

    def __init__(self, spoiled=(), once=(), weight=np.nan, **options):
        super().__init__(**options)
        self.spoiled, self.once, self.weight = set(spoiled), set(once), weight

    def __getitem__(self, k):
        batch = super().__getitem__(k)
        if k in self.spoiled or (k in self.once and self.asked.count(k) == 1):
            return batch._replace(loss_mask=np.full_like(batch.loss_mask, self.weight))
        return batch


def train(folder, batches, checkpoint_every=0, **options):
    return toy_run.train(folder, batches, checkpoint_every, **options)


def told(folder):
    lines = (folder / faults.FAULTS).read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_that_is_not_finite_leaves_all_but_the_count(value):
    params = jax.jit(forward.init, static_argnums=0)(toy_run.CONFIG, jax.random.key(0))
    state = step.init_state(params, optimizer.make_optimizer(toy_run.OPTIMIZER))
    state, _ = toy_run.STEP(state, toy_run.Batches()[0], np.float32(0.1))
    before = jax.tree.map(np.array, state)
    batch = Faulty([1], weight=value)[1]
    after, scalars = toy_run.STEP(state, batch, np.float32(0.1))
    assert bool(scalars["skipped"]) and int(after.step) == int(before.step) + 1
    jax.tree.map(
        np.testing.assert_array_equal, after._replace(step=before.step), before
    )


def test_a_gradient_above_the_limit_is_not_applied():
    params = jax.jit(forward.init, static_argnums=0)(toy_run.CONFIG, jax.random.key(0))
    state = step.init_state(params, optimizer.make_optimizer(toy_run.OPTIMIZER))
    batch, rate = toy_run.Batches()[0], np.float32(0.1)
    state, scalars = toy_run.STEP(state, batch, rate, limit=np.float32(1e9))
    assert not scalars["skipped"]
    norm = np.float32(scalars["grad_norm"])
    _, scalars = toy_run.STEP(state, batch, rate, limit=norm * np.float32(0.01))
    assert scalars["skipped"]


def test_a_spoiled_batch_is_left_out_and_told(tmp_path, capsys):
    """The run ends where one ends that has no such batch at that step's rate."""
    params, rows = train(tmp_path, Faulty([3]))
    assert [row["step"] for row in rows] == list(range(1, 8))
    assert [row["step"] for row in rows if row.get("skipped")] == [4]
    assert (
        np.isnan(rows[3]["loss"]) and "null" in (tmp_path / "metrics.jsonl").read_text()
    )
    (fault,) = told(tmp_path)
    assert (fault["step"], fault["batch"]) == (4, 3)
    assert fault["verdict"] == "reproducible" and fault["loss"] == "nan"
    assert "toy: step 4 was not applied (reproducible): loss nan" in (
        capsys.readouterr().err
    )
    whole, whole_rows = train(tmp_path / "whole", toy_run.Batches())
    assert rows[-1]["loss"] == pytest.approx(whole_rows[-1]["loss"], rel=0.05)
    assert fingerprint.parameters_sha256(params) != fingerprint.parameters_sha256(whole)


def test_a_fault_that_does_not_come_again_is_transient(tmp_path):
    train(tmp_path, Faulty(once=[3]))
    assert [fault["verdict"] for fault in told(tmp_path)] == ["transient"]


def test_too_many_in_a_row_end_the_run(tmp_path):
    """Two of two are endured, and a good step between starts the count anew."""
    train(tmp_path / "some", Faulty([1, 2, 4, 5]), max_skipped=2)
    with pytest.raises(Diverged, match="step 4 was not applied") as error:
        train(tmp_path / "many", Faulty([1, 2, 3]), max_skipped=2)
    assert "faults.jsonl" in str(error.value)
    assert [fault["step"] for fault in told(tmp_path / "many")] == [2, 3, 4]


def test_the_count_goes_on_after_an_interruption(tmp_path):
    """A run that is started again does not endure two more each time."""
    metrics = tmp_path / "metrics.jsonl"
    rows = [{"step": 1, "loss": 1.0}]
    rows += [{"step": step, "loss": None, "skipped": True} for step in (2, 3)]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    watch = faults.Watch(tmp_path, spike_factor=0.0, max_skipped=2)
    watch.remember(metrics, start=3)
    bad = {"loss": np.nan, "grad_norm": np.nan}
    with pytest.raises(Diverged, match="step 4"):
        watch.skipped("toy", 4, None, bad, bad | {"skipped": True})


class Spiky(toy_run.Batches):
    """Forty batches; at 5 and 30 the gradients of few tokens do not cancel out."""

    def __init__(self, **options):
        super().__init__(count=40, **options)

    def __getitem__(self, k):
        batch = super().__getitem__(k)
        if k not in (5, 30):
            return batch
        mask = np.full_like(batch.loss_mask, 0.001)
        mask[0, 1] = -60.0
        return batch._replace(tokens=np.full_like(batch.tokens, 7), loss_mask=mask)


def test_a_spike_is_not_applied_also_after_an_interruption(tmp_path):
    """From the 20th step on it is known what is usual."""

    def stop():
        raise KeyboardInterrupt

    params, rows = train(tmp_path / "whole", Spiky(), 6, spike_factor=5.0)
    assert [row["step"] for row in rows if row.get("skipped")] == [31]
    for k in (25, 33):
        with pytest.raises(KeyboardInterrupt):
            batches = Spiky(stop=k, stopped=stop)
            train(tmp_path / "parts", batches, 6, spike_factor=5.0)
    again, _ = train(tmp_path / "parts", Spiky(), 6, spike_factor=5.0)
    assert fingerprint.parameters_sha256(again) == fingerprint.parameters_sha256(params)
    rows = metrics.read_metrics(tmp_path / "parts" / "metrics.jsonl")
    assert [row["step"] for row in rows if row.get("skipped")] == [31]

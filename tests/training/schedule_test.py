"""Schedules in samples: Megatron's figures, and what must hold for all."""

import math

import pytest

from nemojax.training import schedule
from nemojax.training.learning_rate import LearningRate
from nemojax.training.schedule import Schedule

PRETRAIN = schedule.get("nemotron4_340b_pretrain")
CONTINUED = schedule.get("nemotron4_continued")


def test_pretraining_has_the_three_phases_of_table_2():
    assert [(p.batch, p.steps) for p in PRETRAIN.phases] == [
        (768, 63_579),
        (1536, 31_789),
        (2304, 805_325),
    ]
    tokens = [p.batch * p.steps * 4096 / 1e9 for p in PRETRAIN.phases]
    assert [round(t) for t in tokens] == [200, 200, 7600]


@pytest.mark.parametrize(
    ("samples", "rate"),
    [
        (0, 0.0),
        (1_953_126, 5e-5),
        (3_906_252, 1e-4),
        # Halfway down the cosine.
        (3_906_252 + (1_949_218_748 - 3_906_252) // 2, 5.5e-5),
        (1_949_218_748, 1e-5),
        (1_953_125_000, 1e-5),
        # A quarter of the way: 1e-5 + 9e-5 (1 + sqrt(1/2)) / 2.
        (3_906_252 + (1_949_218_748 - 3_906_252) // 4, 8.681980515339464e-5),
    ],
)
def test_the_learning_rate_at_named_samples(samples, rate):
    found = PRETRAIN.learning_rate.at(samples, PRETRAIN.samples)
    assert found == pytest.approx(rate, rel=1e-9, abs=1e-15)


def test_the_batch_grows_after_48_828_125_samples_each():
    assert PRETRAIN.batch_after(48_828_124) == 768
    assert PRETRAIN.batch_after(48_828_125) == 1536
    assert PRETRAIN.batch_after(97_656_249) == 1536
    assert PRETRAIN.batch_after(97_656_250) == PRETRAIN.batch_after(10**10) == 2304


def test_continued_training_starts_where_pretraining_ends_and_changes_at_a_fifth():
    assert CONTINUED.rate_at(0) == 1e-5
    assert PRETRAIN.rate_at(PRETRAIN.steps - 1) == pytest.approx(1e-5)
    end = CONTINUED.learning_rate.at(CONTINUED.samples, CONTINUED.samples)
    assert end == pytest.approx(1e-7)
    switch = CONTINUED.switch_step
    assert CONTINUED.rate_at(switch) <= 0.2 * 1e-5 < CONTINUED.rate_at(switch - 1)
    # cos(pi t) = 2 (0.2 - 0.01) / 0.99 - 1
    share = math.acos(2 * 0.19 / 0.99 - 1) / math.pi
    assert CONTINUED.at(switch)[0] / CONTINUED.samples == pytest.approx(share, abs=1e-4)
    assert share == pytest.approx(0.711, abs=5e-4)


RAMPED = Schedule(100, 12, LearningRate(1.0, warmup=10), 4, 4, ramp_samples=50)


FLAT = Schedule(7, 2, LearningRate(1.0, 0.0))


@pytest.mark.parametrize("one", [RAMPED, FLAT], ids=["ramp", "flat"])
def test_steps_take_all_samples_in_order(one):
    at, step = 0, 0
    while at < one.samples:
        assert one.at(step) == (at, one.batch_after(at))
        assert one.rate_at(step) == one.learning_rate.at(at, one.samples)
        at, step = at + one.batch_after(at), step + 1
    assert one.steps == step
    assert [p.first_step for p in one.phases] == sorted(
        p.first_step for p in one.phases
    )


def test_a_shorter_run_keeps_its_proportions():
    short = PRETRAIN.of_steps(900)
    assert [p.batch for p in short.phases] == [768, 1536, 2304]
    share = short.phases[2].first_sample / short.samples
    assert share == pytest.approx(97_656_250 / 1_953_125_000, abs=2e-3)
    last = short.rate_at(short.steps - 1)
    assert last == pytest.approx(PRETRAIN.rate_at(PRETRAIN.steps - 1))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"samples": 1}, "do not fill a batch"),
        ({"ramp_start": 5}, "does not grow"),
        ({"learning_rate": LearningRate(1.0, warmup=100)}, "warm-up is longer"),
    ],
)
def test_values_that_do_not_go_together_are_refused(changes, problem):
    values = {"samples": 100, "batch": 8, "learning_rate": LearningRate(1.0)} | changes
    with pytest.raises(ValueError, match=problem):
        Schedule(**values)


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match="nemotron4_continued"):
        schedule.get("gpt")

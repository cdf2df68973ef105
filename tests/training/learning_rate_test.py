"""The learning rate in closed form."""

import math

import numpy as np
import pytest

from nemojax.training.learning_rate import LearningRate


def rates(total, **options):
    rate = LearningRate(2.0, **options)
    return [rate.at(done, total) for done in range(total)]


@pytest.mark.parametrize("final_fraction", [0.1, 1.0])
def test_the_warm_up_is_linear_from_0_and_reaches_the_peak_at_its_end(final_fraction):
    found = rates(9, final_fraction=final_fraction, warmup=4)
    np.testing.assert_allclose(found[:5], [0.0, 0.5, 1.0, 1.5, 2.0])


def test_a_final_fraction_of_1_is_a_constant():
    assert rates(5, final_fraction=1.0) == [2.0] * 5


def test_the_cosine_falls_to_its_final_fraction():
    """peak * (f + (1 - f) * (1 + cos(pi * t)) / 2), t from 0 at the warm-up's end."""
    found = rates(12, warmup=2, final_fraction=0.25)
    for step, rate in enumerate(found[2:]):
        cosine = (1 + math.cos(math.pi * step / 10)) / 2
        assert rate == pytest.approx(2 * (0.25 + 0.75 * cosine))
    assert found[7] == pytest.approx(2 * (0.25 + 0.75 / 2))  # half way
    for done in (12, 99):
        assert LearningRate(2.0, 0.25, 2).at(done, 12) == pytest.approx(0.5)


def test_a_decay_that_ends_before_the_run_stays_at_its_end():
    rate = LearningRate(2.0, 0.25, warmup=2, decay=6)
    assert rate.at(4, 12) == pytest.approx(2 * (0.25 + 0.75 / 2))
    assert rate.at(6, 12) == rate.at(11, 12) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peak": 0.0}, "peak=0.0 must be positive"),
        ({"peak": math.nan}, "peak=nan must be positive"),
        ({"final_fraction": 2.0}, "outside of"),
        ({"warmup": 5, "decay": 5}, "longer than the decay"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LearningRate(**{"peak": 1.0, **options})

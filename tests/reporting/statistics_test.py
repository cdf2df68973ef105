"""Closed forms, symmetries and independent references of the statistics."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from nemojax.reporting import statistics

Z = scipy.stats.norm.ppf(0.975)

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
outcomes = st.lists(st.booleans(), min_size=1, max_size=60)


@given(st.integers(1, 200))
def test_wilson_at_one_half_is_z_over_twice_the_root_of_n_plus_z_squared(half):
    n = 2 * half
    low, high = statistics.wilson(half, n).interval
    width = Z / (2 * math.sqrt(n + Z**2))
    assert (low, high) == pytest.approx((0.5 - width, 0.5 + width))


@given(st.integers(1, 1000))
def test_wilson_without_successes_ends_at_z_squared_over_n_plus_z_squared(n):
    none, all_of_them = statistics.wilson(0, n), statistics.wilson(n, n)
    assert none.interval == pytest.approx((0, Z**2 / (n + Z**2)))
    assert all_of_them.interval == pytest.approx((n / (n + Z**2), 1))


@given(counts, st.floats(0.5, 0.999))
def test_wilson_holds_the_shares_whose_score_test_does_not_reject(count, confidence):
    """At its ends the score z = (p - share) / sqrt(p (1 - p) / n) is the quantile."""
    successes, n = count
    low, high = statistics.wilson(successes, n, confidence).interval
    z = scipy.stats.norm.ppf((1 + confidence) / 2)
    for end in {low, high} - {0.0, 1.0}:
        deviation = math.sqrt(end * (1 - end) / n)
        assert abs(end - successes / n) / deviation == pytest.approx(z, rel=1e-6)
    mirrored = statistics.wilson(n - successes, n, confidence).interval
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_share_counts():
    found = statistics.share([True, False, True, True])
    assert found == statistics.wilson(3, 4)
    assert found.to_json() == {"value": 0.75, "n": 4, "interval": list(found.interval)}


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3))
def test_three_seeds_have_the_interval_of_t_with_two_degrees_of_freedom(values):
    # Its quantile at p is (2 p - 1) / sqrt(2 p (1 - p)).
    found = statistics.mean(values)
    quantile = 0.95 / math.sqrt(2 * 0.975 * 0.025)
    half = quantile * np.std(values, ddof=1) / math.sqrt(3)
    assert found.value == pytest.approx(np.mean(values))
    assert (found.interval[1] - found.interval[0]) / 2 == pytest.approx(half, abs=1e-9)


def test_two_seeds_have_the_interval_of_cauchys_distribution():
    # t with one degree of freedom: its quantile at 0.975 is tan(0.475 pi).
    found = statistics.mean([0.0, 1.0])
    half = math.tan(0.475 * math.pi) / 2
    assert found.interval == pytest.approx((0.5 - half, 0.5 + half))


def test_one_seed_has_no_interval():
    assert statistics.mean([0.3]) == statistics.Estimate(0.3, 1, None)
    assert statistics.paired_bootstrap([0.0], [1.0]).interval is None


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_twice_the_smaller_tail_of_a_fair_coin(won, lost):
    found = statistics.mcnemar_p_value(won, lost)
    n = won + lost
    tail = sum(math.comb(n, k) for k in range(min(won, lost) + 1)) / 2**n
    assert found == pytest.approx(min(1.0, 2 * tail))
    assert found == statistics.mcnemar_p_value(lost, won)


def test_mcnemar_of_one_sided_wins_is_a_power_of_two():
    assert statistics.mcnemar_p_value(11, 0) == pytest.approx(2 * 0.5**11)


def test_mcnemar_of_thousands_of_examples_stays_finite():
    assert 0 < statistics.mcnemar_p_value(2500, 2200) < 1e-4


@given(outcomes, st.data())
def test_comparing_counts_wins_and_losses(before, data):
    n = len(before)
    after = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    found = statistics.compare(before, after)
    assert found.difference.value == pytest.approx((found.won - found.lost) / n)
    back = statistics.compare(after, before)
    assert (back.won, back.lost, back.p_value) == (found.lost, found.won, found.p_value)
    assert set(found.to_json()) == {
        *("value", "n", "interval", "won", "lost", "p_value")
    }


def test_a_constant_difference_is_certain():
    before = np.linspace(0, 1, 50)
    found = statistics.paired_bootstrap(before, before + 0.25, resamples=100)
    assert found.value == pytest.approx(0.25)
    assert found.interval == pytest.approx((0.25, 0.25))


def test_the_bootstrap_is_a_function_of_its_arguments():
    before, after = np.random.default_rng(0).random((2, 80))
    first = statistics.paired_bootstrap(before, after, seed=1)
    assert first == statistics.paired_bootstrap(before, after, seed=1)
    assert first != statistics.paired_bootstrap(before, after, seed=2)


def test_the_bootstrap_interval_is_the_normal_one_for_many_examples():
    rng = np.random.default_rng(0)
    before, after = rng.random(1500) < 0.5, rng.random(1500) < 0.6
    low, high = statistics.paired_bootstrap(before, after).interval
    error = np.std(after.astype(float) - before) / math.sqrt(1500)
    assert (high - low) / 2 == pytest.approx(Z * error, rel=0.05)


def test_the_bootstrap_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(300):
        before = rng.random(100) < 0.5
        after = np.where(rng.random(100) < 0.3, rng.random(100) < 0.7, before)
        found = statistics.paired_bootstrap(before, after, resamples=400, seed=trial)
        held += found.interval[0] <= 0.3 * (0.7 - 0.5) <= found.interval[1]
    assert 0.91 <= held / 300 <= 0.98


def test_ties_are_wrong():
    found = statistics.pairwise_accuracy([1.0, 2.0, 3.0], [1.0, 1.0, 4.0])
    assert (found.value, found.n) == (1 / 3, 3)
    assert statistics.pairwise_accuracy([7.0] * 5, [7.0] * 5).value == 0


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=1))
def test_only_the_order_of_the_rewards_counts(pairs):
    chosen, rejected = np.array(pairs, float).T
    plain = statistics.pairwise_accuracy(chosen, rejected)
    assert plain == statistics.pairwise_accuracy(np.exp(chosen), np.exp(rejected))
    reversed_ = statistics.pairwise_accuracy(rejected, chosen)
    ties = np.mean(chosen == rejected)
    assert plain.value + reversed_.value + ties == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.wilson(3, 2), "3 successes of 2"),
        (lambda: statistics.wilson(0, 0), "of 0"),
        (lambda: statistics.share([0, 2]), r"2\.0"),
        (lambda: statistics.mean([]), "values"),
        (lambda: statistics.mean([1.0, float("nan")]), "nan"),
        (lambda: statistics.compare([1], [1, 0]), "1 and 2 values"),
        (lambda: statistics.pairwise_accuracy([1.0], []), "rejected"),
    ],
)
def test_bad_input_is_refused_with_its_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()

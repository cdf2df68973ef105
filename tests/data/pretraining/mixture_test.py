"""Which component a sample belongs to: shares, ranks, permutations."""

import itertools

import numpy as np
import pytest

from nemojax.data.pretraining import mixture

WEIGHTS = [0.70, 0.15, 0.15 * 0.9, 0.15 * 0.1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_window_of_ten_thousand_samples_has_the_shares_to_a_thousandth(seed):
    drawn = mixture.Mixture(WEIGHTS, seed)
    for first in (0, 123, 10**6 + 7, 1_953_115_000, 2**40):
        component, _ = drawn.at(first, 10_000)
        shares = np.bincount(component, minlength=4) / 10_000
        np.testing.assert_allclose(shares, WEIGHTS, atol=1e-3)


def test_counts_and_ranks_are_those_of_counting():
    drawn = mixture.Mixture([3, 1, 2], seed=5)
    component, rank = drawn.at(0, 5000)
    for number in range(3):
        np.testing.assert_array_equal(
            rank[component == number], np.arange((component == number).sum())
        )
    for n in (0, 1, 17, 4999):
        np.testing.assert_array_equal(
            drawn.counts(n), np.bincount(component[:n], minlength=3)
        )


@pytest.mark.parametrize("cuts", [[0, 5000], [0, 1, 768, 2304, 5000]])
def test_a_sample_does_not_depend_on_the_batch_that_it_is_in(cuts):
    drawn = mixture.Mixture(WEIGHTS, seed=0)
    whole = np.array(drawn.at(10**9, 5000))
    parts = [
        np.array(drawn.at(10**9 + start, stop - start))
        for start, stop in itertools.pairwise(cuts)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


@pytest.mark.parametrize("weights", [[1.0], [1, 0], [0, 1], [1, 0, 1, 0]])
def test_what_has_no_weight_gets_no_sample(weights):
    drawn = mixture.Mixture(weights, seed=1)
    component, _ = drawn.at(0, 4000)
    assert set(component) == set(np.flatnonzero(weights))
    np.testing.assert_array_equal(
        drawn.counts(4000), np.bincount(component, minlength=len(weights))
    )


@pytest.mark.parametrize("weights", [[], [0, 0], [1, -1], [float("nan")]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        mixture.Mixture(weights, seed=0)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 63, 64, 65, 1000, 4097])
def test_a_permutation_has_everything_once(n):
    found = mixture.permuted(np.arange(n), n, key=7)
    np.testing.assert_array_equal(np.sort(found), np.arange(n))
    np.testing.assert_array_equal(
        found[n // 2 :], mixture.permuted(np.arange(n // 2, n), n, key=7)
    )


def test_permutations_of_other_keys_are_others_and_keep_no_order():
    orders = [mixture.permuted(np.arange(1000), 1000, key) for key in range(20)]
    assert len({tuple(order) for order in orders}) == 20
    for order in orders:
        assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.15

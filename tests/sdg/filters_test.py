"""Properties of the filters: counts, order, ties, thresholds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemojax.sdg import filters

# Few distinct values, so that ties are common.
scores = st.integers(-3, 3).map(float)


@given(
    st.lists(st.tuples(scores, st.sampled_from("abc")), min_size=1, max_size=30),
    st.floats(0.01, 1.0),
)
def test_keep_top_share_keeps_the_exact_count_of_the_best_of_each_group(rows, share):
    values, groups = zip(*rows, strict=True)
    kept = filters.keep_top_share(values, groups, share)
    for group in set(groups):
        members = [i for i, name in enumerate(groups) if name == group]
        inside = [values[i] for i in members if kept.keep[i]]
        outside = [values[i] for i in members if not kept.keep[i]]
        assert len(inside) == math.ceil(share * len(members) - 1e-9)
        assert min(inside) == kept.thresholds[group]
        assert not outside or max(outside) <= kept.thresholds[group]


def test_a_share_that_is_a_whole_number_of_rows_is_not_rounded_up():
    # 0.07 * 100 is 7.000000000000001 in floating point.
    kept = filters.keep_top_share(np.arange(100.0), ["all"] * 100, 0.07)
    assert kept.keep.sum() == 7


def test_of_equal_scores_the_first_rows_are_kept():
    kept = filters.keep_top_share([1.0, 1.0, 1.0, 1.0], ["f"] * 4, 0.5)
    assert kept.keep.tolist() == [True, True, False, False]
    many = [float(i % 3 == 0) for i in range(300)]
    kept = filters.keep_top_share(many, ["f"] * 300, 0.5)
    ties = [i for i in range(300) if i % 3][:50]
    assert np.flatnonzero(kept.keep).tolist() == sorted([*range(0, 300, 3), *ties])


def test_families_have_their_own_thresholds():
    kept = filters.keep_top_share([9.0, 8.0, 2.0, 1.0], ["a", "a", "b", "b"], 0.5)
    assert kept.keep.tolist() == [True, False, True, False]
    assert kept.thresholds == {"a": 9.0, "b": 2.0}


@given(st.lists(scores, min_size=2, max_size=20), st.integers(1, 9))
def test_what_is_kept_does_not_depend_on_the_scale_of_the_scores(values, factor):
    groups = ["f"] * len(values)
    scaled = [factor * value + 5 for value in values]
    before = filters.keep_top_share(values, groups, 0.4).keep
    after = filters.keep_top_share(scaled, groups, 0.4).keep
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match="share"):
        filters.keep_top_share([1.0], ["f"], share)


def test_values_that_have_no_order_are_refused_with_their_place():
    with pytest.raises(ValueError, match="score inf at 1 "):
        filters.keep_top_share([1.0, float("inf")], ["f", "f"], 0.5)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="groups"):
        filters.keep_top_share([1.0, 2.0], ["f"], 0.5)

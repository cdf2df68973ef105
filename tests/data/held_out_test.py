"""The rule by which rows are held out."""

import pytest

from nemojax.data.held_out import is_held_out

KEYS = [f"text {number}" for number in range(4000)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1.0])
def test_the_share_is_the_one_asked_for(share):
    found = sum(is_held_out(key, share) for key in KEYS) / len(KEYS)
    assert found == pytest.approx(share, abs=0.02 if 0 < share < 1 else 0)


def test_a_smaller_share_is_a_part_of_a_larger_one():
    small = {key for key in KEYS if is_held_out(key, 0.1)}
    assert small < {key for key in KEYS if is_held_out(key, 0.2)}

"""Rates are of the work that was done, however little time there is."""

import math

from nemojax.parallel import rates


def test_both_rates_are_measured_once_in_no_time():
    found = rates.measure(0)
    assert 0 < found.flops < math.inf and 0 < found.copied < math.inf
    assert (found.size, found.dtype) == (1024, "float32")

"""Gives the vectors of testdata/loss_vectors.json to the tests that ask for them.

Each vector has the inputs and parameters of a loss and what it must give, computed in
float64 and rounded to 6 decimals; where public implementations of the loss exist, it
was checked against them. Vectors that end in -3 are extremes which overflow a naive
log(sigmoid(x)). `@pytest.mark.vectors("dpo")` names those that a test is run with.
"""

import json
import pathlib

import numpy as np
import pytest

_FILE = pathlib.Path(__file__).parent / "testdata" / "loss_vectors.json"


def pytest_configure(config):
    """Makes the mark known."""
    config.addinivalue_line("markers", "vectors(*losses): run with their vectors")


def pytest_generate_tests(metafunc):
    """Runs a test with that mark once for each vector."""
    mark = metafunc.definition.get_closest_marker("vectors")
    if mark is None:
        return
    vectors = json.loads(_FILE.read_text())
    found = [vector for vector in vectors if vector["loss"] in mark.args]
    assert {vector["loss"] for vector in found} == set(mark.args)
    metafunc.parametrize("vector", found, ids=[v["id"] for v in found])


@pytest.fixture
def sides(vector):
    """(average) -> sequence log-probs [N]: policy chosen and rejected, reference's."""

    def find(average):
        return [
            _reduced(vector, f"{model}_{side}_logps", side, average)
            for model in ("policy", "ref")
            for side in ("chosen", "rejected")
        ]

    return find


@pytest.fixture
def log_probs(vector, sides):
    """The sequence log-probs that the vector's parameters want."""
    return sides(vector["params"]["average_log_probs"])


def _reduced(vector, name, side, average):
    mask = np.array(vector["inputs"][f"{side}_mask"], np.float64)
    sums = (np.array(vector["inputs"][name]) * mask).sum(axis=1)
    count = np.maximum(mask.sum(axis=1), 1)
    return (sums / count if average else sums).astype(np.float32)

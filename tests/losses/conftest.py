"""Gives the vectors of testdata/loss_vectors.json to the tests that ask for them.

Each vector has the inputs and parameters of a loss and what it must give, computed in
float64 and rounded to 6 decimals; where public implementations of the loss exist, it
was checked against them. Vectors that end in -3 are extremes which overflow a naive
log(sigmoid(x)). A test module names the losses whose vectors it reads in `VECTORS`.
"""

import json
import pathlib

import numpy as np
import pytest

_FILE = pathlib.Path(__file__).parent / "testdata" / "loss_vectors.json"


def pytest_generate_tests(metafunc):
    """Runs a test that has an argument `vector` once for each of its vectors."""
    if "vector" in metafunc.fixturenames:
        vectors = [
            vector
            for vector in json.loads(_FILE.read_text())
            if vector["loss"] in metafunc.module.VECTORS
        ]
        assert vectors
        metafunc.parametrize("vector", vectors, ids=[v["id"] for v in vectors])


@pytest.fixture
def log_probs(vector):
    """Sequence log-probs [N]: policy chosen, rejected, reference chosen, rejected."""

    def reduce(name, side):
        mask = np.array(vector["inputs"][f"{side}_mask"], np.float64)
        sums = (np.array(vector["inputs"][name]) * mask).sum(axis=1)
        average = vector["params"]["average_log_probs"]
        return (sums / mask.sum(axis=1) if average else sums).astype(np.float32)

    return [
        reduce(f"{model}_{side}_logps", side)
        for model in ("policy", "ref")
        for side in ("chosen", "rejected")
    ]

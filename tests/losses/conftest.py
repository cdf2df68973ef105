"""Gives the vectors of testdata/loss_vectors.json to the tests that ask for them.

Each vector has the inputs and parameters of a loss and what it must give, computed in
float64 and rounded to 6 decimals; where public implementations of the loss exist, it
was checked against them. Vectors that end in -3 are extremes which overflow a naive
log(sigmoid(x)). `@pytest.mark.vectors("dpo")` names those that a test is run with.
"""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.losses import Pairs, Responses

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
def pairs_of(vector):
    """(average) -> the pairs of the vector, with sums of log-probs or with means."""
    inputs = vector["inputs"]

    def side(name, average):
        mask = np.array(inputs[f"{name}_mask"], np.float64)
        tokens = mask.sum(axis=1)
        scale = np.maximum(tokens, 1) if average else 1.0
        policy, reference = (
            ((np.array(inputs[f"{model}_{name}_logps"]) * mask).sum(axis=1) / scale)
            for model in ("policy", "ref")
        )
        arrays = policy, reference, tokens, inputs.get(f"{name}_gt_rewards")
        return Responses(*(None if x is None else np.float32(x) for x in arrays))

    return lambda average: Pairs(side("chosen", average), side("rejected", average))


@pytest.fixture
def random_pairs():
    """(N, seed) -> N pairs, all fields filled in."""

    def make(count, seed=1):
        rng = np.random.default_rng(seed)

        def side():
            tokens = rng.integers(1, 40, count)
            policy, reference = -tokens * rng.exponential(2.0, (2, count))
            arrays = policy, reference, tokens, rng.normal(size=count)
            return Responses(*(jnp.array(x, jnp.float32) for x in arrays))

        return Pairs(side(), side(), jnp.array(rng.exponential(size=count)))

    return make

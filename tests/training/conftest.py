"""A tiny model, and packed batches of random sequences."""

import functools

import jax
import numpy as np
import pytest

from nemojax.data.batching import packing
from nemojax.models import forward
from nemojax.models.config import ModelConfig

TINY = ModelConfig(
    vocab_size=67,
    num_layers=2,
    d_model=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    d_ff=48,
    init_std=0.1,
    compute_dtype="float32",
)


@pytest.fixture(scope="session")
def config():
    """The tiny model's sizes."""
    return TINY


@pytest.fixture(scope="session")
def params():
    """Fresh parameters with a reward head of three attributes."""
    init = jax.jit(functools.partial(forward.init, TINY, num_attributes=3))
    return init(jax.random.key(0))


@pytest.fixture(scope="session")
def sequences():
    """Eight sequences of 4 to 11 tokens; about half of the tokens are targets."""
    rng = np.random.default_rng(0)
    found = []
    for size in range(4, 12):
        mask = rng.integers(0, 2, size).tolist()
        found.append((rng.integers(1, 67, size).tolist(), [0, 1, *mask[2:]]))
    return found


@pytest.fixture(scope="session")
def pack():
    """(sequences, rows, length) -> the one PackedBatch that holds them all."""

    def one_batch(sequences, rows, length, max_sequences=8):
        sizes = [len(tokens) for tokens, _ in sequences]
        return packing.assemble(
            sequences,
            packing.first_fit_decreasing(sizes, length),
            tuple(range(len(sequences))),
            rows=rows,
            length=length,
            max_sequences=max_sequences,
        )

    return one_batch

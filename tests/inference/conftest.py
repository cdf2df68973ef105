"""A tiny model with sharp distributions, and prompts of several lengths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.models import forward
from nemojax.models.config import ModelConfig

TINY = ModelConfig(
    vocab_size=61,
    num_layers=2,
    d_model=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    d_ff=64,
    init_std=0.3,
    compute_dtype="float32",
)
# Room for the longest prompt and its continuation: one shape for every row.
LENGTH = 32


@pytest.fixture(scope="session")
def config():
    """The tiny model's sizes."""
    return TINY


@pytest.fixture(scope="session")
def params():
    """Random parameters, reward head included."""
    init = jax.jit(functools.partial(forward.init, TINY, num_attributes=5))
    head = np.random.default_rng(0).normal(size=(32, 5)).astype(np.float32)
    params = init(jax.random.key(0))
    return params | {"reward_head": {"kernel": head, "bias": head[0]}}


@pytest.fixture(scope="session")
def prompts():
    """Eight prompts of 3 to 10 tokens."""
    rng = np.random.default_rng(1)
    return [rng.integers(0, 61, size).tolist() for size in range(3, 11)]


@pytest.fixture(scope="session")
def log_softmax(params):
    """tokens -> float32 [len(tokens), V]: log p(next token), by the full forward."""

    @jax.jit
    def all_log_probs(tokens):
        return jax.nn.log_softmax(forward.logits(TINY, params, tokens))

    def of_one(tokens):
        row = np.zeros((1, LENGTH), np.int32)
        row[0, : len(tokens)] = tokens
        return np.asarray(all_log_probs(jnp.asarray(row)))[0, : len(tokens)]

    return of_one

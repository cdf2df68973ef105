"""Tiny models of each kind, with random parameters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from nemojax.models import forward
from nemojax.models.config import ModelConfig, RopeScaling

NEMOTRON = ModelConfig(
    vocab_size=64,
    num_layers=3,
    d_model=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    d_ff=24,
    compute_dtype="float32",
)
LLAMA = dataclasses.replace(
    NEMOTRON,
    norm="rmsnorm",
    activation="swiglu",
    rotary_fraction=1.0,
    rope_theta=500_000.0,
    rope_scaling=RopeScaling(),
    max_positions=131_072,
)
CONFIGS = {"nemotron": NEMOTRON, "llama": LLAMA}
CONFIGS["tied"] = dataclasses.replace(NEMOTRON, tied_embeddings=True)


@functools.cache
def random_params(config, dtype="float32", num_attributes=0):
    init = functools.partial(forward.init, config, num_attributes=num_attributes)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), dtype),
        jax.eval_shape(init, jax.random.key(0)),
    )


def assert_same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for ours, theirs in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)

"""A model of a few thousand parameters, whose every parameter matters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.models import forward, quantized
from nemojax.models.config import ModelConfig

# Heads times width is not d_model, and half a head is rotated, as in the real models.
TINY = ModelConfig(
    vocab_size=62,
    num_layers=2,
    d_model=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=12,
    d_ff=80,
    init_std=0.2,
    compute_dtype="float32",
    vocab_chunk=20,
)


@functools.cache
def random_params(config: ModelConfig):
    """Parameters with noise on top, so that norms, biases and heads are not zero."""
    init = jax.jit(functools.partial(forward.init, config, num_attributes=5))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: leaf + rng.normal(0, 0.1, leaf.shape).astype(np.float32),
        init(jax.random.key(0)),
    )


@pytest.fixture(scope="session")
def config():
    """The tiny model's sizes."""
    return TINY


@pytest.fixture(scope="session")
def params():
    """The tiny model's parameters, with a reward head."""
    return random_params(TINY)


@pytest.fixture(scope="session")
def tokens():
    """int32 [4, 16] random tokens."""
    rng = np.random.default_rng(1)
    return rng.integers(0, TINY.vocab_size, (4, 16)).astype(np.int32)


@pytest.fixture(scope="session")
def outputs():
    """(config, params, tokens, **options) -> (logits, token_log_probs, rewards)."""

    @functools.partial(jax.jit, static_argnames=("config", "layout"))
    def run(config, params, tokens, layout=None, **arrays):
        return tuple(
            function(config, params, tokens, layout=layout, **arrays)
            for function in (
                forward.logits,
                forward.token_log_probs,
                forward.rewards,
            )
        )

    return run


def dequantized(params):
    """Gives the float32 tree of full kernels that a quantised one stands for."""

    def walk(branch, path=()):
        if not isinstance(branch, dict):
            return branch
        found = {}
        for name, value in branch.items():
            scale = branch.get(name + quantized.SCALE_SUFFIX)
            if scale is not None:
                axis = -1 - (quantized.scale_side((*path, name)) or 0)
                found[name] = value.astype(jnp.float32) * jnp.expand_dims(scale, axis)
            elif not name.endswith(quantized.SCALE_SUFFIX):
                found[name] = walk(value, (*path, name))
        return found

    return walk(params)

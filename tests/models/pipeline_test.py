"""A pipelined, sharded model is the model: its values and every gradient."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from nemojax.models import forward, partition
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from tests.models.conftest import TINY

pytestmark = pytest.mark.usefixtures("quick_compile")

# Vocabulary 63 is padded where tensor=2; heads times width is not d_model.
DEEP = dataclasses.replace(TINY, num_layers=8, vocab_size=63, init_std=0.05)
LLAMA = dataclasses.replace(
    DEEP, norm="rmsnorm", activation="swiglu", rotary_fraction=1.0, tied_embeddings=True
)
ROWS, LENGTH = 16, 16


@functools.cache
def random_params(config):
    """Every parameter matters: norms, biases and heads are not zero."""
    rng = np.random.default_rng(0)
    init = jax.jit(functools.partial(forward.init, config, num_attributes=5))
    return jax.tree.map(
        lambda leaf: leaf + rng.normal(0, 0.02, leaf.shape).astype(np.float32),
        init(jax.random.key(0)),
    )


@functools.cache
def case():
    """Tokens and packed segments with padding, and weights of every output."""
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, 63, (ROWS, LENGTH)).astype(np.int32)
    cuts = np.sort(rng.integers(1, LENGTH, (ROWS, 2)), axis=1)
    columns = np.arange(LENGTH)
    segments = 1 + (columns >= cuts[:, :1]) - 2 * (columns >= cuts[:, 1:])
    weights = (rng.normal(size=(ROWS, LENGTH)), rng.normal(size=(ROWS, LENGTH, 5)))
    return tokens, np.maximum(segments, 0).astype(np.int32), weights


def loss(config, params, layout):
    """A weighted sum of all log-probs and rewards."""
    tokens, segments, weights = case()
    outputs = (
        forward.token_log_probs(
            config, params, tokens, segment_ids=segments, layout=layout
        ),
        forward.rewards(config, params, tokens, segment_ids=segments, layout=layout),
    )
    return sum((a * b).sum() for a, b in zip(outputs, weights, strict=True))


def evaluated(config, layout):
    """The loss and its gradient, as a plain tree."""
    params = random_params(config)
    shardings = partition.param_shardings(
        partition.pack(config, forward.shapes(config, num_attributes=5), layout), layout
    )
    packed = jax.device_put(partition.pack(config, params, layout), shardings)
    program = jax.jit(
        jax.value_and_grad(functools.partial(loss, config), argnums=0),
        static_argnums=1,
    )
    value, gradient = program(packed, layout)
    return value, partition.unpack(config, jax.device_get(gradient), layout)


@functools.cache
def reference(config):
    return evaluated(config, Layout())


def check(config, layout, tolerance=2e-6):
    value, gradient = evaluated(config, layout)
    expected, expected_gradient = reference(config)
    np.testing.assert_allclose(value, expected, rtol=tolerance)
    for (path, ours), one in zip(
        jax.tree_util.tree_leaves_with_path(gradient),
        jax.tree.leaves(expected_gradient),
        strict=True,
    ):
        scale = np.abs(one).max()
        error = np.abs(np.asarray(ours) - one).max() / scale
        assert scale > 0 and error <= tolerance, (path, error)


@pytest.mark.parametrize(
    ("axes", "options"),
    [
        ((2, 2, 2), {"virtual_stages": 2, "zero": 1, "remat": "full"}),
        ((1, 4, 2), {"virtual_stages": 1, "micro_batches": 8}),
        ((1, 2, 1), {"virtual_stages": 4, "remat": "mlp_preactivation"}),
        ((4, 1, 2), {"zero": 3, "remat": "full", "micro_batches": 2}),
        ((2, 1, 1), {"virtual_stages": 2, "micro_batches": 4}),
    ],
    ids=str,
)
def test_a_layout_changes_neither_values_nor_gradients(axes, options):
    check(DEEP, Layout(meshes.make_mesh(*axes), **options))


def test_a_llama_is_pipelined_too():
    layout = Layout(meshes.make_mesh(2, 2, 2), virtual_stages=2, zero=1)
    check(LLAMA, layout)

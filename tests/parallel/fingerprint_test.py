"""Any change of bits or places, and no mesh, alters the fingerprint of parameters."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from nemojax.models import forward, partition
from nemojax.models.config import ModelConfig
from nemojax.parallel import mesh as meshes
from nemojax.parallel.fingerprint import parameters_sha256
from nemojax.parallel.layout import Layout

CONFIG = ModelConfig(
    vocab_size=64,
    num_layers=4,
    d_model=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    d_ff=64,
)


@pytest.fixture(scope="module")
def params():
    return jax.jit(functools.partial(forward.init, CONFIG))(jax.random.key(0))


@pytest.mark.parametrize("zero", [0, 1, 3])
@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 4, 2), (2, 1, 4)])
def test_does_not_depend_on_the_mesh_or_the_layout(params, sizes, zero):
    layout = Layout(meshes.make_mesh(*sizes), zero=zero)
    placed = jax.device_put(params, partition.param_shardings(params, layout))
    assert parameters_sha256(placed) == parameters_sha256(params)


def test_does_not_depend_on_host_or_device(params):
    host = jax.tree.map(np.asarray, params)
    assert parameters_sha256(host) == parameters_sha256(params)


@hypothesis.given(
    st.integers(0, 59),
    st.integers(0, 31),
    st.sampled_from([np.float32, jnp.bfloat16, np.int8, np.int32]),
)
def test_any_flipped_bit_alters_it(element, bit, dtype):
    leaf = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(dtype)
    flipped = leaf.copy()
    bits = flipped.reshape(-1).view(f"u{leaf.dtype.itemsize}")
    bits[element] ^= bits.dtype.type(1 << bit % (8 * leaf.dtype.itemsize))
    assert parameters_sha256([leaf]) != parameters_sha256([flipped])


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[::-1],
        lambda x: x.transpose(1, 0),
        lambda x: x.reshape(8, 2),
        lambda x: x.astype(jnp.bfloat16),
        lambda x: np.roll(x, 1),
    ],
)
def test_places_shapes_and_dtypes_alter_it(change):
    leaf = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    assert parameters_sha256([leaf]) != parameters_sha256([change(leaf)])


def test_the_signs_of_zeros_and_exchanged_leaves_alter_it():
    zeros = {parameters_sha256([jnp.float32(x)]) for x in (0.0, -0.0)}
    assert len(zeros) == 2
    a, b = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert parameters_sha256({"a": a, "b": b}) != parameters_sha256({"a": b, "b": a})

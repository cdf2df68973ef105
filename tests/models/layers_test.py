"""The modules against NumPy, and how their parameters start."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from nemojax.models import forward, layers
from nemojax.models.config import ModelConfig
from nemojax.parallel import mesh as meshes

pytestmark = pytest.mark.usefixtures("quick_compile")

# Large enough to measure standard deviations to 1 %.
WIDE = ModelConfig(
    vocab_size=300,
    num_layers=8,
    d_model=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    d_ff=128,
    init_std=0.02,
)


@pytest.fixture(scope="module")
def init():
    return jax.jit(functools.partial(forward.init, WIDE))


@pytest.fixture(scope="module")
def fresh(init):
    return jax.tree.map(np.asarray, init(jax.random.key(3)))


def test_layer_norm_stores_its_scale_less_one():
    """(x - mean) / sqrt(var + eps) * (weight + 1) + bias."""
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, (4, 6)).astype(np.float32)
    weight, bias = rng.normal(size=(2, 6)).astype(np.float32)
    norm = layers.LayerNorm1P(epsilon=0.1)
    out = layers.apply(norm, {"weight": weight, "bias": bias}, x)
    centred = x - x.mean(-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(-1, keepdims=True) + 0.1)
    np.testing.assert_allclose(out, centred / scale * (weight + 1) + bias, atol=1e-5)


def test_layer_norm_takes_its_statistics_in_float32():
    """In bfloat16 the mean of 1000, 1001, ... would swallow the differences."""
    x = jax.numpy.array([[256.0, 258.0, 260.0, 262.0]], "bfloat16")
    params = {"weight": np.zeros(4, np.float32), "bias": np.zeros(4, np.float32)}
    out = layers.apply(layers.LayerNorm1P(epsilon=0.0), params, x)
    assert out.dtype == "bfloat16"
    expected = np.array([[-3, -1, 1, 3]]) / np.sqrt(5)
    np.testing.assert_allclose(out.astype("float32"), expected, atol=0.01)


def test_mlp_squares_the_relu():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3, 64)).astype(np.float32)
    up = rng.normal(size=(64, 128)).astype(np.float32)
    down = rng.normal(size=(128, 64)).astype(np.float32)
    out = layers.apply(layers.Mlp(WIDE), {"up": up, "down": down}, x)
    expected = np.maximum(x @ up, 0) ** 2 @ down
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-2)


def test_a_gated_mlp_opens_with_silu():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3, 64)).astype(np.float32)
    up, gate = rng.normal(size=(2, 64, 128)).astype(np.float32)
    down = rng.normal(size=(128, 64)).astype(np.float32)
    gated = dataclasses.replace(WIDE, activation="swiglu")
    params = {"up": up, "gate": gate, "down": down}
    out = layers.apply(layers.Mlp(gated), params, x)
    opened = x @ gate
    expected = (opened / (1 + np.exp(-opened)) * (x @ up)) @ down
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-2)


def test_rms_norm_divides_by_the_root_mean_square():
    x = np.array([[3.0, -4.0, 0.0, 0.0]], np.float32)
    weight = np.array([1.0, 2.0, 1.0, 1.0], np.float32)
    out = layers.apply(layers.RMSNorm(epsilon=0.0), {"weight": weight}, x)
    np.testing.assert_allclose(out, [[1.2, -3.2, 0.0, 0.0]], rtol=1e-6)
    assert (
        layers.RMSNorm(1e-5).init(jax.random.key(0), x)["params"]["weight"] == 1
    ).all()


@pytest.mark.parametrize(
    ("path", "scale"),
    [
        ("attention/query", 1.0),
        ("attention/key", 1.0),
        ("attention/value", 1.0),
        ("mlp/up", 1.0),
        ("attention/output", 1 / 4),
        ("mlp/down", 1 / 4),
    ],
)
def test_a_layer_starts_normal_its_outputs_scaled_by_depth(fresh, path, scale):
    """init_std, and init_std / sqrt(2 L) for what writes to the residual stream."""
    module, name = path.split("/")
    values = fresh["layers"][module][name]
    tolerance = 5 / np.sqrt(2 * values.size)  # five standard errors
    np.testing.assert_allclose(values.std(), scale * 0.02, rtol=tolerance)
    assert abs(values.mean()) < 5 * values.std() / np.sqrt(values.size)


@pytest.mark.parametrize("path", ["embedding/table", "lm_head/kernel"])
def test_embeddings_start_with_the_plain_deviation(fresh, path):
    module, name = path.split("/")
    values = fresh[module][name]
    np.testing.assert_allclose(values.std(), 0.02, rtol=5 / np.sqrt(2 * values.size))


def test_norms_start_at_zero(fresh):
    norms = [
        fresh["final_norm"],
        fresh["layers"]["attention_norm"],
        fresh["layers"]["mlp_norm"],
    ]
    leaves = jax.tree.leaves(norms)
    assert len(leaves) == 6
    assert not any(leaf.any() for leaf in leaves)


def test_no_two_matrices_start_equal(fresh):
    """Each layer and each embedding has a random stream of its own."""
    matrices = [fresh["embedding"]["table"], fresh["lm_head"]["kernel"]]
    matrices += [*fresh["layers"]["mlp"]["up"], *fresh["layers"]["attention"]["query"]]
    first = [tuple(matrix.ravel()[:8]) for matrix in matrices]
    assert len(set(first)) == len(first) == 18


def test_init_is_a_function_of_the_key(init, fresh):
    again, other = init(jax.random.key(3)), init(jax.random.key(4))
    jax.tree.map(np.testing.assert_array_equal, fresh, again)
    assert (other["lm_head"]["kernel"] != fresh["lm_head"]["kernel"]).mean() > 0.99


def test_a_size_that_the_tensor_axis_does_not_divide_is_named():
    def local(x):
        layers.local_size("d_ff", 7)
        return x

    mesh = meshes.make_mesh(tensor=2)
    run = jax.shard_map(
        local, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec()
    )
    with pytest.raises(ValueError, match="d_ff=7 does not divide over tensor=2"):
        run(np.zeros(1))
    assert layers.local_size("d_ff", 7) == 7  # outside of a shard_map nothing is split

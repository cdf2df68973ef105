"""One-byte weights: how far they are from the full ones, and that all devices agree."""

import dataclasses

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from nemojax.models import forward, lora, partition, quantized, trees
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from tests.models.conftest import TINY, dequantized, random_params

pytestmark = pytest.mark.usefixtures("quick_compile")

KINDS = list(quantized.KINDS)
LLAMA = dataclasses.replace(
    TINY, norm="rmsnorm", activation="swiglu", tied_embeddings=True
)


@pytest.fixture(scope="module")
def one_device(tokens):
    """A model with an odd vocabulary, quantised, and its log-probs on one device."""
    config = dataclasses.replace(TINY, vocab_size=61)
    params = quantized.quantize(random_params(config), "int8")
    run = jax.jit(lambda params: forward.token_log_probs(config, params, tokens % 61))
    return config, params, np.asarray(run(params))


def codes_of(kernel, kind):
    """Codes and scales [out] of one matrix [in, out]."""
    tree = {"layers": {"mlp": {"up": jnp.asarray(kernel)[None]}}}
    mlp = quantized.quantize(tree, kind)["layers"]["mlp"]
    return np.asarray(mlp["up"][0], np.float32), np.asarray(mlp["up_scale"][0])


def random_kernel(seed):
    rng = np.random.default_rng(seed)
    spread = 10.0 ** rng.uniform(-20, 20, 24)
    return (rng.normal(size=(16, 24)) * spread).astype(np.float32)


@hypothesis.given(st.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=20)
def test_an_int8_weight_is_off_by_half_a_scale_at_most(seed):
    kernel = random_kernel(seed)
    codes, scale = codes_of(kernel, "int8")
    assert np.all(np.abs(kernel - codes * scale) <= scale / 2 * (1 + 1e-4))
    assert np.all(np.abs(codes).max(0) == 127)


@hypothesis.given(st.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=20)
def test_an_fp8_weight_is_off_by_a_sixteenth_of_itself_at_most(seed):
    """Three bits of mantissa; below the normal numbers half of the smallest step."""
    kernel = random_kernel(seed)
    codes, scale = codes_of(kernel, "fp8")
    bound = np.maximum(np.abs(kernel) / 16, scale * 2.0**-10)
    assert np.all(np.abs(kernel - codes * scale) <= bound * (1 + 1e-4))
    assert np.all(np.abs(codes).max(0) == 448)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_codes_come_back_exactly(kind):
    dtype, largest = quantized.KINDS[kind]
    rng = np.random.default_rng(0)
    kernel = rng.uniform(-largest, largest, (40, 8)).astype(np.float32)
    kernel = np.asarray(jnp.round(kernel).astype(dtype), np.float32)
    kernel[7] = largest
    kernel *= 2.0 ** rng.integers(-20, 20, 8)
    codes, scale = codes_of(kernel, kind)
    np.testing.assert_array_equal(codes * scale, kernel)


@pytest.mark.parametrize("kind", KINDS)
def test_a_channels_scale_changes_neither_its_codes_nor_its_neighbours(kind):
    kernel = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    factors = np.float32(2.0) ** np.arange(-3, 3)
    codes, scale = codes_of(kernel, kind)
    other, its = codes_of(kernel * factors, kind)
    np.testing.assert_array_equal(codes, other)
    np.testing.assert_array_equal(scale * factors, its)


@pytest.mark.parametrize("kind", KINDS)
def test_channels_of_zeros_stay_zeros(kind):
    kernel = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    kernel[:, 2], kernel[:, 4] = 0.0, 1e-45  # whose scale is no float32 any more
    codes, scale = codes_of(kernel, kind)
    assert np.all(np.isfinite(scale)) and np.all(scale > 0)
    assert not codes[:, [2, 4]].any()


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_are_quantised_and_all_else_is_the_same_array(config, params, kind):
    found = quantized.quantize(params, kind)
    attention, mlp = found["layers"]["attention"], found["layers"]["mlp"]
    for branch, name, width in (
        (attention, "query", 48), (attention, "key", 24), (attention, "value", 24),
        (attention, "output", 32), (mlp, "up", 80), (mlp, "down", 32),
    ):  # fmt: skip
        assert quantized.is_quantized(branch[name])
        assert branch[f"{name}_scale"].shape == (config.num_layers, width)
    assert found["lm_head"]["kernel_scale"].shape == (config.vocab_size,)
    for branch in ("embedding", "final_norm", "reward_head"):
        for name, leaf in params[branch].items():
            assert found[branch][name] is leaf
    with pytest.raises(ValueError, match=r"is quantised already"):
        quantized.quantize(found, kind)
    shapes = quantized.quantize(jax.eval_shape(lambda: params), kind)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), found
    )


def test_an_unknown_kind_is_refused_by_name(params):
    with pytest.raises(ValueError, match="unknown kind 'int4' of weights; one of int8"):
        quantized.quantize(params, "int4")


@pytest.mark.parametrize(
    ("config", "kind"),
    [(TINY, "int8"), pytest.param(LLAMA, "fp8", marks=pytest.mark.slow)],
    ids=["nemotron", "llama"],
)
def test_the_forward_functions_compute_with_the_full_kernels(config, kind, tokens):
    params = quantized.quantize(random_params(config), kind)
    full = dequantized(params)
    assert jax.tree.structure(full) == jax.tree.structure(random_params(config))

    @jax.jit
    def run(params):
        functions = (forward.logits, forward.token_log_probs, forward.rewards)
        return [function(config, params, tokens) for function in functions]

    for ours, theirs in zip(run(params), run(full), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    "sizes",
    [
        {"data": 2, "tensor": 2},
        pytest.param({"pipe": 2, "tensor": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_mesh_gives_the_numbers_of_one_device(sizes, one_device, tokens):
    """With a vocabulary that is padded, weights that ZeRO gathers, and stages."""
    config, params, expected = one_device
    layout = Layout(meshes.make_mesh(**sizes))
    specs = partition.param_specs(params)["layers"]
    assert specs["mlp"]["up_scale"] == jax.P(None, "tensor")
    assert specs["mlp"]["down_scale"] == specs["attention"]["output_scale"] == jax.P()
    packed = partition.pack(config, params, layout)
    back = partition.unpack(config, packed, layout)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    run = jax.jit(
        lambda params: forward.token_log_probs(
            config, params, tokens % 61, layout=layout
        )
    )
    np.testing.assert_allclose(run(params), expected, rtol=1e-4, atol=3e-5)


def test_consumed_kernels_are_gone_and_others_are_not(params):
    copy = jax.tree.map(jnp.array, params)
    leaves = jax.tree_util.tree_leaves_with_path(copy)
    found = ((tuple(entry.key for entry in path), leaf) for path, leaf in leaves)
    tree = trees.build(quantized.leaves(found, "int8", consume=True))
    assert copy["layers"]["mlp"]["up"].is_deleted()
    assert copy["lm_head"]["kernel"].is_deleted()
    assert not copy["embedding"]["table"].is_deleted()
    expected = quantized.quantize(params, "int8")
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


@pytest.mark.slow
def test_an_adapter_is_attached_to_quantised_kernels_and_not_merged(params, tokens):
    params = quantized.quantize(params, "int8")
    settings = lora.LoraConfig(rank=2)
    adapters = lora.init(settings, params, jax.random.key(0))
    adapters = jax.tree.map(lambda leaf: leaf + 0.1, adapters)
    attached = lora.attach(params, adapters, settings.scale)
    merged = lora.merge(dequantized(params), adapters, settings.scale)
    run = jax.jit(lambda params: forward.logits(TINY, params, tokens))
    np.testing.assert_allclose(run(attached), run(merged), rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="is quantised: merge first"):
        lora.merge(params, adapters, settings.scale)

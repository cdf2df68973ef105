"""Adapters: off they are the base model, attached and merged they are one model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.models import forward, lora, partition
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout

pytestmark = pytest.mark.usefixtures("quick_compile")

LORA = lora.LoraConfig(rank=3, alpha=6.0)


def trained(config, params, adapted=LORA):
    """Adapters whose both factors are random."""
    rng = np.random.default_rng(0)
    fresh = lora.init(adapted, params, jax.random.key(0))
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), jnp.float32), fresh
    )


def test_fresh_adapters_change_nothing(config, params, tokens, outputs):
    fresh = lora.init(LORA, params, jax.random.key(0))
    attached = lora.attach(params, fresh, LORA.scale)
    for ours, base in zip(
        outputs(config, attached, tokens), outputs(config, params, tokens), strict=True
    ):
        np.testing.assert_array_equal(ours, base)


def test_the_base_stays_as_it_was(config, params):
    """Adapters off is the very tree that went in: the reference policy."""
    before = jax.tree.map(np.array, params)
    lora.attach(params, trained(config, params), LORA.scale)
    lora.merge(params, trained(config, params), LORA.scale)
    jax.tree.map(np.testing.assert_array_equal, params, before)


@pytest.mark.parametrize("activation", ["squared_relu", "swiglu"])
@pytest.mark.parametrize("patterns", [("*",), ("attention/*",), ("mlp/up", "*/query")])
def test_merged_is_attached(config, tokens, activation, patterns):
    config = dataclasses.replace(config, activation=activation)
    init = functools.partial(forward.init, config)
    params = jax.jit(init)(jax.random.key(1))
    adapted = dataclasses.replace(LORA, patterns=patterns)
    adapters = trained(config, params, adapted)
    run = jax.jit(functools.partial(forward.logits, config))
    base = run(params, tokens)
    attached = run(lora.attach(params, adapters, adapted.scale), tokens)
    merged = run(lora.merge(params, adapters, adapted.scale), tokens)
    scale = np.abs(attached).max()
    np.testing.assert_allclose(merged / scale, attached / scale, atol=1e-5)
    assert np.abs(attached - base).max() > 0.1 * scale


def test_a_mesh_gives_what_one_device_gives(config, params, tokens, outputs):
    attached = lora.attach(params, trained(config, params), LORA.scale)
    mesh = meshes.make_mesh(tensor=2)
    specs = partition.param_specs(attached)["layers"]
    assert specs["attention"]["query_lora_b"] == specs["attention"]["query"]
    assert specs["mlp"]["down_lora_a"] == specs["mlp"]["down"]
    assert not any(specs["mlp"]["down_lora_b"])
    for ours, single in zip(
        outputs(config, attached, tokens, layout=Layout(mesh)),
        outputs(config, attached, tokens),
        strict=True,
    ):
        np.testing.assert_allclose(ours, single, rtol=1e-4, atol=1e-4)


def test_patterns_choose_the_layers(params):
    names = dataclasses.replace(LORA, patterns=("mlp/*", "*/v*")).names(params)
    assert names == ["attention/value", "mlp/up", "mlp/down"]


def test_a_pattern_without_a_layer_is_refused(params):
    with pytest.raises(ValueError, match=r"'mlp/gate' matches .* mlp/up, mlp/down"):
        dataclasses.replace(LORA, patterns=("mlp/gate",)).names(params)


def test_a_rank_below_one_is_refused():
    with pytest.raises(ValueError, match="rank must be positive, got 0"):
        lora.LoraConfig(rank=0)


def test_adapters_of_another_model_are_refused(config, params):
    adapters = trained(config, params)
    with pytest.raises(ValueError, match="no linear layer 'mlp/gate'"):
        lora.attach(params, {"mlp/gate": adapters["mlp/up"]}, 1.0)
    with pytest.raises(ValueError, match="adapter of mlp/up has shapes"):
        lora.merge(params, {"mlp/up": adapters["mlp/down"]}, 1.0)


def test_the_sum_is_rounded_to_the_dtype_of_the_kernel(config, params):
    low = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), params)
    merged = lora.merge(low, trained(config, params), LORA.scale)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype("bfloat16")}

"""The presets are the published models: their exact parameter counts say so."""

import functools

import jax
import pytest

from nemojax.models import forward, presets


def shapes(config, **options):
    """The parameter tree as shapes; nothing is allocated."""
    init = functools.partial(forward.init, config, **options)
    return jax.eval_shape(init, jax.random.key(0))


def test_nemotron4_340b_has_the_parameters_of_the_report():
    """340B report, Table 1: 9.4B embedding and 331.6B other parameters."""
    params = shapes(presets.nemotron4_340b())
    embedding = forward.param_count((params["embedding"], params["lm_head"]))
    assert embedding == 9_437_184_000
    assert forward.param_count(params) - embedding == 331_592_011_776


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("nemotron4_340b", 341_029_195_776),
        ("nemotron4_15b", 15_628_775_424),
        ("minitron_4b", 4_190_509_056),
    ],
)
def test_total_parameters(name, total):
    assert forward.param_count(shapes(presets.get(name))) == total


@pytest.mark.parametrize("name", presets.PRESETS)
def test_parameter_counts_follow_the_closed_form(name):
    """V d twice, and a layer: d (h + 2 g) k + h k d + 2 d f + 4 d (two norms)."""
    c = presets.get(name)
    d, width = c.d_model, c.head_dim
    projections = d * (c.num_heads + 2 * c.num_kv_heads) * width
    layer = projections + c.num_heads * width * d + 2 * d * c.d_ff + 4 * d
    total = 2 * c.vocab_size * d + c.num_layers * layer + 2 * d
    assert forward.param_count(shapes(c)) == total


def test_a_reward_head_adds_a_linear_layer_with_bias():
    config = presets.nemotron4_340b()
    with_head = forward.param_count(shapes(config, num_attributes=5))
    assert with_head - forward.param_count(shapes(config)) == 5 * 18_432 + 5


def test_parameters_are_float32_whatever_the_compute_dtype():
    leaves = jax.tree.leaves(shapes(presets.nemotron4_15b()))
    assert {str(leaf.dtype) for leaf in leaves} == {"float32"}


def test_an_unknown_name_is_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match=r"'gpt5'.*nemotron4_340b.*miniature"):
        presets.get("gpt5")

"""The presets are the published models: their exact parameter counts say so."""

import dataclasses
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
        ("nemotron3_22b", 21_266_116_608),
        ("nemotron3_8b", 8_540_135_424),
        ("minitron_8b", 8_271_699_968),
        ("minitron_4b", 4_190_509_056),
        ("llama2_7b", 6_738_415_616),
        ("llama2_13b", 13_015_864_320),
        ("llama2_70b", 68_976_648_192),
        ("llama3_8b", 8_030_261_248),
        ("llama31_8b", 8_030_261_248),
        ("llama3_70b", 70_553_706_496),
        ("llama31_70b", 70_553_706_496),
        ("llama31_405b", 405_853_388_800),
    ],
)
def test_total_parameters(name, total):
    """Those that the makers of the models publish, to the last one."""
    assert forward.param_count(shapes(presets.get(name))) == total


@pytest.mark.parametrize(
    ("name", "embedding", "other"),
    [
        ("nemotron4_15b", 3_145_728_000, 12_483_047_424),
        ("nemotron3_22b", 3_145_728_000, 18_120_388_608),
        ("nemotron3_8b", 2_097_152_000, 6_442_983_424),
        ("minitron_8b", 2_097_152_000, 6_174_547_968),
        ("minitron_4b", 1_572_864_000, 2_617_645_056),
    ],
)
def test_embedding_and_other_parameters(name, embedding, other):
    params = shapes(presets.get(name))
    found = forward.param_count((params["embedding"], params["lm_head"]))
    assert (found, forward.param_count(params) - found) == (embedding, other)


def test_only_llama_31_stretches_its_rotary_frequencies():
    names = {name for name in presets.PRESETS if presets.get(name).rope_scaling}
    assert names == {"llama31_8b", "llama31_70b", "llama31_405b"}


@pytest.mark.parametrize("name", presets.PRESETS)
def test_parameter_counts_follow_the_closed_form(name):
    """V d twice, and a layer: d (h + 2 g) k + h k d + 2 d f + 4 d (two norms).

    A gated MLP has a third matrix, RMSNorm no bias.
    """
    c = presets.get(name)
    d, width = c.d_model, c.head_dim
    projections = d * (c.num_heads + 2 * c.num_kv_heads) * width
    matrices = 3 if c.activation == "swiglu" else 2
    norm = d if c.norm == "rmsnorm" else 2 * d
    layer = projections + c.num_heads * width * d + matrices * d * c.d_ff + 2 * norm
    total = 2 * c.vocab_size * d + c.num_layers * layer + norm
    assert forward.param_count(shapes(c)) == total


def test_tied_embeddings_are_counted_once():
    config = presets.minitron_4b()
    tied = dataclasses.replace(config, tied_embeddings=True)
    saved = forward.param_count(shapes(config)) - forward.param_count(shapes(tied))
    assert saved == config.vocab_size * config.d_model


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

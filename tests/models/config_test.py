"""Configurations that describe no model are refused, with the field named."""

import dataclasses

import pytest

from nemojax.models.config import RopeScaling


@pytest.mark.parametrize(
    "name",
    ["vocab_size", "num_layers", "d_model", "num_heads", "head_dim", "d_ff"],
)
def test_a_size_below_one_is_refused(config, name):
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        dataclasses.replace(config, **{name: 0})


def test_a_vocabulary_chunk_below_one_is_refused(config):
    with pytest.raises(ValueError, match="vocab_chunk must be positive, got -1"):
        dataclasses.replace(config, vocab_chunk=-1)


@pytest.mark.parametrize("num_kv_heads", [0, 3])
def test_key_value_heads_must_divide_the_heads(config, num_kv_heads):
    with pytest.raises(ValueError, match=f"num_kv_heads={num_kv_heads} must divide"):
        dataclasses.replace(config, num_kv_heads=num_kv_heads)


def test_an_odd_number_of_rotated_dimensions_is_refused(config):
    with pytest.raises(ValueError, match=r"rotary_fraction=0\.5 of head_dim=6 is 3"):
        dataclasses.replace(config, head_dim=6)


@pytest.mark.parametrize("fraction", [-0.5, 1.5, float("nan")])
def test_a_rotary_fraction_that_is_no_share_is_refused(config, fraction):
    with pytest.raises(ValueError, match=r"rotary_fraction=.* is no share"):
        dataclasses.replace(config, rotary_fraction=fraction)


@pytest.mark.parametrize(("fraction", "dims"), [(0.0, 0), (0.5, 6), (1.0, 12)])
def test_rotary_dim_is_the_fraction_of_a_head(config, fraction, dims):
    assert dataclasses.replace(config, rotary_fraction=fraction).rotary_dim == dims


@pytest.mark.parametrize("name", ["norm", "activation"])
def test_an_unknown_kind_is_refused_with_the_valid_ones(config, name):
    with pytest.raises(ValueError, match=f"{name}='gelu' is not one of .*, "):
        dataclasses.replace(config, **{name: "gelu"})


@pytest.mark.parametrize(
    "changes",
    [
        {"factor": 0.5},
        {"original_positions": 0},
        {"low_frequency_factor": 4.0},
        {"low_frequency_factor": 0.0},
    ],
)
def test_a_rotary_scaling_that_shortens_or_crosses_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        RopeScaling(**changes)

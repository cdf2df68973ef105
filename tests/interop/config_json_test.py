"""`config.json` of the released models, in the spellings that they have had."""

import dataclasses

import pytest

from nemojax.interop import config_json
from nemojax.models import presets

MINITRON_4B = {
    "model_type": "nemotron",
    "hidden_act": "relu2",
    "hidden_size": 3072,
    "head_dim": 128,
    "intermediate_size": 9216,
    "max_position_embeddings": 4096,
    "norm_eps": 1e-05,
    "num_attention_heads": 24,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.5,
    "rope_theta": 10000,
    "initializer_range": 0.0134,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 256000,
}
LLAMA_31_8B = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}


def renamed(fields, names):
    return {names.get(name, name): value for name, value in fields.items()}


def without(fields, *names):
    return {name: value for name, value in fields.items() if name not in names}


@pytest.mark.parametrize(
    ("fields", "preset"), [(MINITRON_4B, "minitron_4b"), (LLAMA_31_8B, "llama31_8b")]
)
def test_a_released_config_is_the_preset(fields, preset):
    assert config_json.from_json(fields) == presets.get(preset)


@pytest.mark.parametrize(
    "names",
    [
        {"partial_rotary_factor": "rope_percent"},
        {"partial_rotary_factor": "rope_percentage"},
        {"head_dim": "kv_channels"},
        {"norm_eps": "layer_norm_eps"},
        {"torch_dtype": "dtype"},
    ],
)
def test_every_name_of_a_field_is_read(names):
    fields = MINITRON_4B | {"partial_rotary_factor": 0.25, "norm_eps": 1e-3}
    found = config_json.from_json(renamed(fields, names))
    assert found == config_json.from_json(fields)
    assert (found.rotary_fraction, found.norm_epsilon) == (0.25, 1e-3)


def test_a_nemotron_without_rotary_fraction_turns_half_of_a_head():
    found = config_json.from_json(without(MINITRON_4B, "partial_rotary_factor"))
    assert found.rotary_fraction == 0.5


def test_heads_share_the_width_if_no_head_width_is_given():
    found = config_json.from_json(without(LLAMA_31_8B, "num_key_value_heads"))
    assert (found.head_dim, found.num_kv_heads) == (128, 32)


def test_both_spellings_of_the_rotary_scaling_are_one():
    rope = {**LLAMA_31_8B["rope_scaling"], "rope_theta": 500000.0}
    fields = without(LLAMA_31_8B, "rope_scaling", "rope_theta")
    found = config_json.from_json({**fields, "rope_parameters": rope})
    assert found == presets.get("llama31_8b")


@pytest.mark.parametrize("name", presets.PRESETS)
def test_out_and_in_again_is_the_same_config(name):
    config = presets.get(name)
    assert config_json.from_json(config_json.to_json(config)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' .* nemotron, llama"),
        ({"model_type": None}, "model_type None"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' of a llama .* silu"),
        ({"hidden_act": "relu2"}, "hidden_act 'relu2' of a llama"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"vocab_size": "many"}, "vocab_size must be a positive integer, got 'many'"),
        ({"hidden_size": None}, "hidden_size must be a positive integer, got None"),
        ({"rope_scaling": {"type": "yarn"}}, "rope scaling 'yarn' .* llama3"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "lacks factor, low_freq_factor"),
        ({"torch_dtype": "int8"}, "dtype 'int8' is not supported"),
    ],
)
def test_what_is_not_supported_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        config_json.from_json({**LLAMA_31_8B, **change})


def test_a_model_that_hugging_face_does_not_have_is_refused():
    config = dataclasses.replace(presets.get("llama3_8b"), activation="squared_relu")
    with pytest.raises(ValueError, match="no model with norm 'rmsnorm'"):
        config_json.to_json(config)
    config = dataclasses.replace(presets.get("llama3_8b"), rotary_fraction=0.5)
    with pytest.raises(ValueError, match="turns whole heads"):
        config_json.to_json(config)

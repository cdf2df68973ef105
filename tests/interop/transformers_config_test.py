"""Spellings of `config.json`: what transformers makes of them, or refused by name."""

import importlib
import random

import numpy as np
import pytest

from nemojax.errors import UserError
from nemojax.interop import config_json
from nemojax.models import attention
from tests.models import variants

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
ABSENT = object()
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
ROPE = [
    ABSENT,
    None,
    {},
    {"rope_type": "default", "rope_theta": 5e5},
    {"rope_theta": 2e4},
    {"factor": 2.0},
    {"type": "linear", "factor": 2.0},
    {"rope_type": "yarn", "factor": 2.0},
    {"type": "llama3", **LLAMA3},
    {"rope_type": "llama3", **LLAMA3, "rope_theta": 5e5},
    {"rope_type": "llama3", **LLAMA3, "low_freq_factor": None},
    {k: v for k, v in {"rope_type": "llama3", **LLAMA3}.items() if "orig" not in k},
    {"rope_type": "llama3", "factor": 8.0},
    {"rope_type": "default", "partial_rotary_factor": 0.25},
    {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
]
CHOICES = {
    "rope_scaling": ROPE,
    "rope_parameters": ROPE,
    "rope_theta": [ABSENT, 10_000.0, 500_000],
    "partial_rotary_factor": [ABSENT, ABSENT, 0.5, 1.0],
    "norm": [ABSENT, 1e-6, 1e-2, None],
    "max_position_embeddings": [ABSENT, 64, 64, None],
    "head_dim": [ABSENT, 16, None],
    "num_key_value_heads": [ABSENT, 2, None],
    "tie_word_embeddings": [ABSENT, True, False, None],
    "initializer_range": [ABSENT, 0.01, None],
    "hidden_act": [ABSENT, "relu2", "silu", "gelu"],
    "attention_bias": [ABSENT, False, True],
}


def spellings(kind, count):
    """Configs of which each field is left out, null or one of some values."""
    rng = random.Random(kind)
    plain = {"llama": variants.LLAMA, "nemotron": variants.NEMOTRON}[kind]
    norm = {"llama": "rms_norm_eps", "nemotron": "norm_eps"}[kind]
    for _ in range(count):
        fields = dict(plain)
        for name in rng.sample(sorted(CHOICES), 3):
            value = rng.choice(CHOICES[name])
            name = norm if name == "norm" else name
            fields.pop(name, None)
            if value is not ABSENT:
                fields[name] = value
        yield fields


def theirs(fields):
    """What transformers computes with."""
    config = transformers.AutoConfig.for_model(**fields)
    kind = config.model_type
    norm = {"llama": "rms_norm_eps", "nemotron": "norm_eps"}[kind]
    code = importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
    rotary = getattr(code, f"{kind.capitalize()}RotaryEmbedding")
    return rotary(config).inv_freq.numpy(), {
        "epsilon": getattr(config, norm),
        "positions": config.max_position_embeddings,
        "head_dim": config.head_dim,
        "kv_heads": config.num_key_value_heads or config.num_attention_heads,
        "tied": config.tie_word_embeddings,
        "act": config.hidden_act,
        "std": config.initializer_range,
        "bias": config.attention_bias,
    }


def ours(fields):
    config = config_json.from_json(fields)
    frequencies = attention.rotary_frequencies(
        config.rotary_dim, config.rope_theta, config.rope_scaling
    )
    return frequencies, {
        "epsilon": config.norm_epsilon,
        "positions": config.max_positions,
        "head_dim": config.head_dim,
        "kv_heads": config.num_kv_heads,
        "tied": config.tied_embeddings,
        "act": {"squared_relu": "relu2", "swiglu": "silu"}[config.activation],
        "std": config.init_std,
        "bias": False,
    }


@pytest.mark.parametrize("kind", ["llama", "nemotron"])
def test_every_spelling_means_what_it_means_to_transformers_or_is_refused(kind):
    transformers.logging.set_verbosity_error()
    agreed = 0
    for fields in spellings(kind, 400):
        try:
            found = ours(fields)
        except UserError:
            continue
        frequencies, values = theirs(fields)
        assert found[1] == values, fields
        np.testing.assert_allclose(found[0], frequencies, rtol=1e-6, err_msg=fields)
        agreed += 1
    assert agreed > 100

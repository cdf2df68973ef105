"""Converts Hugging Face's `config.json` to a `ModelConfig` and back.

Every field is read, known to say nothing of the model, or refused by its name.
"""

import reprlib
from collections.abc import Mapping
from typing import Any

from nemojax.errors import UserError
from nemojax.interop import names
from nemojax.models.config import ModelConfig, RopeScaling

MODEL_TYPES = ("nemotron", "llama")
_ACTIVATIONS = {
    "relu2": "squared_relu",
    "squared_relu": "squared_relu",
    "silu": "swiglu",
    "swish": "swiglu",
}
_KINDS = {
    "nemotron": ("layernorm1p", "squared_relu"),
    "llama": ("rmsnorm", "swiglu"),
}
# What transformers takes for fields that are missing.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "nemotron": {
        "hidden_act": "relu2", "norm_eps": 1e-5, "initializer_range": 0.0134,
        "max_position_embeddings": 4096, "partial_rotary_factor": 0.5,
    },
    "llama": {
        "hidden_act": "silu", "norm_eps": 1e-6, "initializer_range": 0.02,
        "max_position_embeddings": 2048, "partial_rotary_factor": 1.0,
    },
}  # fmt: skip
_DTYPES = {"float32": "float32", "bfloat16": "bfloat16", "float16": "bfloat16"}
# The names that one field has had; the first is the one that is written.
_ALIASES = {
    "head_dim": ("head_dim", "kv_channels"),
    "rotary": ("partial_rotary_factor", "rope_percent", "rope_percentage"),
    "nemotron_epsilon": ("norm_eps", "layer_norm_eps"),
    "llama_epsilon": ("rms_norm_eps",),
    "dtype": ("dtype", "torch_dtype"),
}
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
READ = {
    *(name for group in _ALIASES.values() for name in group), "hidden_act",
    "hidden_size", "initializer_range", "intermediate_size", "max_position_embeddings",
    "model_type", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
    "rope_parameters", "rope_scaling", "rope_theta", "tie_word_embeddings",
    "vocab_size",
}  # fmt: skip
# Fields that say nothing of what the model computes, or are read elsewhere. Those of
# generation stood in config.json before there was a file of their own.
_FREE = {
    *TOKEN_IDS, "architectures", "attention_dropout", "auto_map", "id2label",
    "is_llama_config", "keys_to_ignore_at_inference", "label2id", "max_sequence_length",
    "model_max_length", "neftune_noise_alpha", "num_labels", "output_attentions",
    "output_hidden_states", "pretraining_tp", "problem_type", "return_dict",
    "task_specific_params", "tokenizer_class", "torchscript", "transformers_version",
    "transformers.js_config", "unsloth_fixed", "unsloth_version", "use_cache",
    "diversity_penalty", "do_sample", "early_stopping", "length_penalty", "max_length",
    "max_new_tokens", "min_length", "num_beam_groups", "num_beams",
    "num_return_sequences", "output_scores", "remove_invalid_values",
    "repetition_penalty", "return_dict_in_generate", "temperature", "top_k", "top_p",
    "typical_p",
}  # fmt: skip
_ROPE = {
    "rope_type", "type", "rope_theta", "partial_rotary_factor", "factor",
    "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
}  # fmt: skip
_MOST, _MOST_PARAMETERS, _MOST_NUMBER = 2**31 - 1, 2**53, 1e30


def from_json(fields: Mapping[str, Any]) -> ModelConfig:
    """Returns the model that a `config.json` of Nemotron or Llama describes.

    Args:
      fields: content of the file. Older names of a field are read too; what is missing
        is what transformers takes for it.

    Raises:
      UserError: a kind of model, activation, bias or rotary scaling that is not
        supported, a field that is missing, of a wrong type or not known; the message
        names it.
    """
    kind = fields.get("model_type")
    if kind not in MODEL_TYPES:
        raise UserError(
            f"model_type {reprlib.repr(kind)} is not supported; there are "
            f"{', '.join(MODEL_TYPES)}"
        )
    _check_known("", fields, READ | _FREE)
    norm, expected = _KINDS[kind]
    defaults = _DEFAULTS[kind]
    valid = [name for name, ours in _ACTIVATIONS.items() if ours == expected]
    written = fields.get("hidden_act", defaults["hidden_act"])
    if written not in valid:
        raise UserError(
            f"hidden_act {reprlib.repr(written)} of a {kind} model is not supported; "
            f"there are {', '.join(valid)}"
        )
    heads = integer(fields, "num_attention_heads")
    d_model = integer(fields, "hidden_size")
    positions = integer(
        fields, "max_position_embeddings", defaults["max_position_embeddings"]
    )
    theta, fraction, scaling = _rope(fields, kind, positions)
    tied = fields.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise UserError(f"tie_word_embeddings must be true or false, got {tied!r}")
    spellings = _ALIASES[f"{kind}_epsilon"]
    epsilon = next((name for name in spellings if name in fields), spellings[0])
    return checked(
        ModelConfig(
            vocab_size=integer(fields, "vocab_size"),
            num_layers=integer(fields, "num_hidden_layers"),
            d_model=d_model,
            num_heads=heads,
            num_kv_heads=integer(_present(fields), "num_key_value_heads", heads),
            head_dim=integer(
                {"head_dim": _aliased(fields, "head_dim") or d_model // heads},
                "head_dim",
            ),
            d_ff=integer(fields, "intermediate_size"),
            rotary_fraction=fraction,
            rope_theta=theta,
            rope_scaling=scaling,
            norm=norm,
            activation=expected,
            tied_embeddings=tied,
            norm_epsilon=number(fields, epsilon, defaults["norm_eps"]),
            init_std=number(fields, "initializer_range", defaults["initializer_range"]),
            compute_dtype=_compute_dtype(fields),
            max_positions=positions,
        )
    )


def checked(config: ModelConfig) -> ModelConfig:
    """Returns a config if a computer can count the parameters of its model.

    Raises:
      UserError: it cannot.
    """
    width = max(config.d_ff, config.num_heads * config.head_dim, config.vocab_size)
    if config.num_layers * config.d_model * width > _MOST_PARAMETERS:
        raise UserError(
            f"{config.num_layers:,} layers of width {config.d_model:,} and "
            f"{width:,} are no sizes of a model"
        )
    return config


def to_json(config: ModelConfig) -> dict[str, Any]:
    """Returns the `config.json` of a model, as current transformers read it.

    Raises:
      UserError: Hugging Face has no model with this norm and activation, or none
        that turns this part of a head.
    """
    kinds = {pair: kind for kind, pair in _KINDS.items()}
    kind = kinds.get((config.norm, config.activation))
    if kind is None:
        raise UserError(
            f"Hugging Face has no model with norm {config.norm!r} and activation "
            f"{config.activation!r}; it has {sorted(kinds)}"
        )
    if kind == "llama" and config.rotary_fraction != 1:
        raise UserError(
            f"a llama model turns whole heads, not {config.rotary_fraction} of each"
        )
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling:
        scaling = config.rope_scaling
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_max_position_embeddings": scaling.original_positions,
        }
    fields = {
        "model_type": kind,
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        "initializer_range": config.init_std,
        "rope_theta": config.rope_theta,
        "rope_parameters": rope,
        "tie_word_embeddings": config.tied_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "dtype": config.compute_dtype,
        "torch_dtype": config.compute_dtype,
    }
    if kind == "nemotron":
        rope["partial_rotary_factor"] = config.rotary_fraction
        fields |= {
            "hidden_act": "relu2",
            "norm_eps": config.norm_epsilon,
            "partial_rotary_factor": config.rotary_fraction,
            "bos_token_id": 2,
            "eos_token_id": 3,
        }
    else:
        if config.rope_scaling:  # for readers that do not know rope_parameters
            fields["rope_scaling"] = {k: rope[k] for k in rope if k != "rope_theta"}
        fields |= {"hidden_act": "silu", "rms_norm_eps": config.norm_epsilon}
    return fields


def _check_known(where: str, fields: Mapping[str, Any], known: set[str]) -> None:
    """Raises an error that names a field with a meaning that nobody here knows."""
    for name, value in fields.items():
        if name not in known and not name.startswith("_") and value:
            raise UserError(
                f"{where}{names.shown(name)} {reprlib.repr(value)} is not supported: "
                "delete it if the model computes the same without"
            )


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that are not null."""
    return {name: value for name, value in fields.items() if value is not None}


def integer(fields: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """Returns a positive integer of a config that a stranger wrote.

    Raises:
      UserError: it is something else.
    """
    value = fields.get(name, default)
    if type(value) is not int or not 1 <= value <= _MOST:
        raise UserError(f"{name} must be a positive integer, got {reprlib.repr(value)}")
    return value


def number(fields: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """Returns a positive finite number of a config that a stranger wrote.

    Raises:
      UserError: it is something else.
    """
    value = fields.get(name, default)
    if type(value) not in (int, float) or not 0 < value < _MOST_NUMBER:
        raise UserError(f"{name} must be a positive number, got {reprlib.repr(value)}")
    return float(value)


def _aliased(fields: Mapping[str, Any], name: str) -> Any:
    """Returns the value of a field under the first of its names, else None."""
    return next((fields[n] for n in _ALIASES[name] if fields.get(n) is not None), None)


def _rope(
    fields: Mapping[str, Any], kind: str, positions: int
) -> tuple[float, float, RopeScaling | None]:
    """Returns base, share of a head and scaling of the rotary frequencies.

    As in transformers, `rope_scaling` comes before `rope_parameters`, and what either
    says before a field beside it.
    """
    rope = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise UserError(f"rope_scaling or rope_parameters {reprlib.repr(rope)}")
    _check_known("rotary field ", rope, _ROPE)
    rope = {**_present(fields), **rope}
    theta = number(rope, "rope_theta", 10_000.0)
    fraction = _aliased(rope, "rotary")
    if fraction is None:
        fraction = _DEFAULTS[kind]["partial_rotary_factor"]
    fraction = float(
        number({"partial_rotary_factor": fraction}, "partial_rotary_factor")
    )
    if kind == "llama" and fraction != 1:
        raise UserError(
            f"partial_rotary_factor {fraction} is not supported: a llama model turns "
            "whole heads"
        )
    scaling = rope.get("rope_type", rope.get("type", "default"))
    if scaling == "default":
        return theta, fraction, None
    if scaling != "llama3":
        raise UserError(
            f"rope scaling {reprlib.repr(scaling)} is not supported; there are "
            "default, llama3"
        )
    factors = ("factor", "low_freq_factor", "high_freq_factor")
    missing = [name for name in factors if name not in rope]
    if missing:
        raise UserError(f"rope scaling llama3 lacks {', '.join(missing)}")
    factor, low, high = (number(rope, name) for name in factors)
    original = integer(rope, "original_max_position_embeddings", positions)
    return theta, fraction, RopeScaling(factor, low, high, original)


def _compute_dtype(fields: Mapping[str, Any]) -> str:
    written = _aliased(fields, "dtype") or "float32"
    if not isinstance(written, str) or written not in _DTYPES:
        raise UserError(
            f"dtype {reprlib.repr(written)} is not supported; there are "
            f"{', '.join(_DTYPES)}"
        )
    return _DTYPES[written]

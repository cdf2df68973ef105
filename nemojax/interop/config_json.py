"""Converts Hugging Face's `config.json` to a `ModelConfig` and back."""

from collections.abc import Mapping
from typing import Any

from nemojax.errors import UserError
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
_DTYPES = {"float32": "float32", "bfloat16": "bfloat16", "float16": "bfloat16"}
# The names that one field has had; the first is the one that is written.
_ALIASES = {
    "head_dim": ("head_dim", "kv_channels"),
    "rotary": ("partial_rotary_factor", "rope_percent", "rope_percentage"),
    "nemotron_epsilon": ("norm_eps", "layer_norm_eps"),
    "llama_epsilon": ("rms_norm_eps",),
    "dtype": ("dtype", "torch_dtype"),
}


def from_json(fields: Mapping[str, Any]) -> ModelConfig:
    """Returns the model that a `config.json` of Nemotron or Llama describes.

    Args:
      fields: content of the file. Older names of a field are read too; a missing rotary
        fraction of a Nemotron is 0.5, as its first exports meant.

    Raises:
      UserError: a kind of model, activation, bias or rotary scaling that is not
        supported, or a field that is missing; the message names it.
    """
    kind = fields.get("model_type")
    if kind not in MODEL_TYPES:
        raise UserError(
            f"model_type {kind!r} is not supported; there are {', '.join(MODEL_TYPES)}"
        )
    norm, expected = _KINDS[kind]
    written = fields.get("hidden_act", "relu2" if kind == "nemotron" else "silu")
    if _ACTIVATIONS.get(written) != expected:
        valid = [name for name, ours in _ACTIVATIONS.items() if ours == expected]
        raise UserError(
            f"hidden_act {written!r} of a {kind} model is not supported; "
            f"there are {', '.join(valid)}"
        )
    for name in ("attention_bias", "mlp_bias"):
        if fields.get(name):
            raise UserError(f"{name}: linear layers with a bias are not supported")
    heads = _required(fields, "num_attention_heads")
    d_model = _required(fields, "hidden_size")
    theta, scaling = _rope(fields)
    return ModelConfig(
        vocab_size=_required(fields, "vocab_size"),
        num_layers=_required(fields, "num_hidden_layers"),
        d_model=d_model,
        num_heads=heads,
        num_kv_heads=fields.get("num_key_value_heads") or heads,
        head_dim=_aliased(fields, "head_dim") or d_model // heads,
        d_ff=_required(fields, "intermediate_size"),
        rotary_fraction=_rotary_fraction(fields),
        rope_theta=theta,
        rope_scaling=scaling,
        norm=norm,
        activation=expected,
        tied_embeddings=bool(fields.get("tie_word_embeddings", False)),
        norm_epsilon=_aliased(fields, f"{kind}_epsilon") or 1e-5,
        init_std=fields.get("initializer_range", 0.0134),
        compute_dtype=_compute_dtype(fields),
        max_positions=fields.get("max_position_embeddings", 4096),
    )


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


def _required(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or value < 1:
        raise UserError(f"{name} must be a positive integer, got {value!r}")
    return value


def _aliased(fields: Mapping[str, Any], name: str) -> Any:
    """Returns the value of a field under the first of its names, else None."""
    return next((fields[n] for n in _ALIASES[name] if fields.get(n) is not None), None)


def _rotary_fraction(fields: Mapping[str, Any]) -> float:
    found = _aliased({**(fields.get("rope_parameters") or {}), **fields}, "rotary")
    if found is not None:
        return float(found)
    return 0.5 if fields["model_type"] == "nemotron" else 1.0


def _rope(fields: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Returns the base of the rotary frequencies and their scaling."""
    rope = {
        **(fields.get("rope_scaling") or {}),
        **(fields.get("rope_parameters") or {}),
    }
    theta = float(rope.get("rope_theta") or fields.get("rope_theta") or 10_000.0)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise UserError(
            f"rope scaling {kind!r} is not supported; there are default, llama3"
        )
    names = (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    )
    missing = [name for name in names if name not in rope]
    if missing:
        raise UserError(f"rope scaling llama3 lacks {', '.join(missing)}")
    return theta, RopeScaling(*(rope[name] for name in names))


def _compute_dtype(fields: Mapping[str, Any]) -> str:
    written = _aliased(fields, "dtype") or "float32"
    if written not in _DTYPES:
        raise UserError(
            f"dtype {written!r} is not supported; there are {', '.join(_DTYPES)}"
        )
    return _DTYPES[written]

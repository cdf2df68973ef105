"""Sizes of what is measured: those of a GPU, and small ones that a CPU runs."""

import functools

from nemojax.models import presets
from nemojax.models.config import ModelConfig

_toy = functools.partial(
    ModelConfig,
    vocab_size=512,
    num_layers=2,
    d_model=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    d_ff=128,
)


def length(small: bool) -> int:
    """Returns the tokens of a row in training."""
    return 128 if small else 4096


def share(small: bool) -> ModelConfig:
    """Returns a GPU's share of 8 layers of Nemotron-4-340B, split over 8 GPUs."""
    if small:
        return _toy(num_kv_heads=1)
    return ModelConfig(
        vocab_size=4096,
        num_layers=8,
        d_model=18_432,
        num_heads=12,
        num_kv_heads=1,
        head_dim=192,
        d_ff=9_216,
    )


def answering(small: bool) -> dict[str, ModelConfig]:
    """Returns the models that generate, by name."""
    if not small:
        return {name: presets.get(name) for name in ("minitron_4b", "llama31_8b")}
    llama = _toy(norm="rmsnorm", activation="swiglu", rotary_fraction=1.0)
    return {"toy_nemotron": _toy(), "toy_llama": llama}


def slots(small: bool) -> tuple[int, ...]:
    """Returns the numbers of sequences that are generated at a time."""
    return (2,) if small else (1, 32, 256)


def texts(small: bool) -> tuple[int, int]:
    """Returns the tokens of a prompt and of an answer."""
    return (32, 32) if small else (128, 128)


def billion(small: bool) -> ModelConfig:
    """Returns a model of 1.2 billion parameters, which preferences are taught to."""
    if small:
        return _toy()
    return ModelConfig(
        vocab_size=32_768,
        num_layers=24,
        d_model=2_048,
        num_heads=16,
        num_kv_heads=8,
        head_dim=128,
        d_ff=8_192,
    )

"""Named model sizes. Sources: the reports, and the released configurations."""

import dataclasses
import functools

from nemojax.errors import UserError
from nemojax.models.config import ModelConfig, RopeScaling

_nemotron = functools.partial(
    ModelConfig, vocab_size=256_000, num_kv_heads=8, head_dim=128
)


def nemotron4_340b() -> ModelConfig:
    """Returns Nemotron-4-340B: 341,029,195,776 parameters (340B report, Table 1)."""
    config = _nemotron(num_layers=96, d_model=18_432, num_heads=96, d_ff=73_728)
    return dataclasses.replace(config, head_dim=192, init_std=0.0063)


def nemotron4_15b() -> ModelConfig:
    """Returns Nemotron-4-15B: 15,628,775,424 parameters (15B report, Table 1)."""
    return _nemotron(num_layers=32, d_model=6_144, num_heads=48, d_ff=24_576)


def nemotron3_22b() -> ModelConfig:
    """Returns Nemotron-3-22B: 21,266,116,608 parameters, as many key as query heads."""
    config = _nemotron(num_layers=40, d_model=6_144, num_heads=48, d_ff=24_576)
    return dataclasses.replace(config, num_kv_heads=48, init_std=0.008)


def nemotron3_8b() -> ModelConfig:
    """Returns Nemotron-3-8B: 8,540,135,424 parameters, as many key as query heads."""
    config = _nemotron(num_layers=32, d_model=4_096, num_heads=32, d_ff=16_384)
    return dataclasses.replace(config, num_kv_heads=32, init_std=0.010)


def minitron_8b() -> ModelConfig:
    """Returns Minitron-8B: 8,271,699,968 parameters, heads wider than the model."""
    return _nemotron(num_layers=32, d_model=4_096, num_heads=48, d_ff=16_384)


def minitron_4b() -> ModelConfig:
    """Returns Minitron-4B, also Nemotron-Mini-4B: 4,190,509,056 parameters."""
    return _nemotron(num_layers=32, d_model=3_072, num_heads=24, d_ff=9_216)


_llama = functools.partial(
    ModelConfig,
    head_dim=128,
    rotary_fraction=1.0,
    norm="rmsnorm",
    activation="swiglu",
    init_std=0.02,
)
_llama2 = functools.partial(_llama, vocab_size=32_000)
_llama3 = functools.partial(
    _llama,
    vocab_size=128_256,
    num_kv_heads=8,
    rope_theta=500_000.0,
    max_positions=8_192,
)
_llama31 = {"rope_scaling": RopeScaling(), "max_positions": 131_072}


def llama2_7b() -> ModelConfig:
    """Returns Llama 2 7B: 6,738,415,616 parameters."""
    return _llama2(
        num_layers=32, d_model=4_096, num_heads=32, num_kv_heads=32, d_ff=11_008
    )


def llama2_13b() -> ModelConfig:
    """Returns Llama 2 13B: 13,015,864,320 parameters."""
    return _llama2(
        num_layers=40, d_model=5_120, num_heads=40, num_kv_heads=40, d_ff=13_824
    )


def llama2_70b() -> ModelConfig:
    """Returns Llama 2 70B: 68,976,648,192 parameters."""
    return _llama2(
        num_layers=80, d_model=8_192, num_heads=64, num_kv_heads=8, d_ff=28_672
    )


def llama3_8b() -> ModelConfig:
    """Returns Llama 3 8B: 8,030,261,248 parameters (Llama 3 report, Table 3)."""
    return _llama3(num_layers=32, d_model=4_096, num_heads=32, d_ff=14_336)


def llama3_70b() -> ModelConfig:
    """Returns Llama 3 70B: 70,553,706,496 parameters (Llama 3 report, Table 3)."""
    return _llama3(num_layers=80, d_model=8_192, num_heads=64, d_ff=28_672)


def llama31_8b() -> ModelConfig:
    """Returns Llama 3.1 8B: Llama 3 8B with a context of 131,072."""
    return dataclasses.replace(llama3_8b(), **_llama31)


def llama31_70b() -> ModelConfig:
    """Returns Llama 3.1 70B: Llama 3 70B with a context of 131,072."""
    return dataclasses.replace(llama3_70b(), **_llama31)


def llama31_405b() -> ModelConfig:
    """Returns Llama 3.1 405B: 405,853,388,800 parameters (Llama 3 report, Table 3)."""
    config = _llama3(num_layers=126, d_model=16_384, num_heads=128, d_ff=53_248)
    return dataclasses.replace(config, **_llama31)


def miniature(vocab_size: int = 704) -> ModelConfig:
    """Returns the half-million-parameter model of the miniature recipe."""
    return ModelConfig(
        vocab_size=vocab_size,
        num_layers=2,
        d_model=128,
        num_heads=8,
        num_kv_heads=2,
        head_dim=16,
        d_ff=512,
        rope_theta=100.0,  # contexts of 128 tokens: 10,000 leaves half of it unused
        init_std=0.05,
        compute_dtype="float32",
    )


def small(vocab_size: int = 4096) -> ModelConfig:
    """Returns a model of a few million parameters for real text on a laptop CPU."""
    return ModelConfig(
        vocab_size=vocab_size,
        num_layers=4,
        d_model=192,
        num_heads=6,
        num_kv_heads=2,
        head_dim=32,
        d_ff=768,
        init_std=0.03,
        compute_dtype="float32",
    )


def nano(vocab_size: int = 32_000) -> ModelConfig:
    """Returns a model of 9.6 million parameters for pretraining on a laptop CPU."""
    return ModelConfig(
        vocab_size=vocab_size,
        num_layers=8,
        d_model=128,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        d_ff=512,
        init_std=0.03,
        compute_dtype="float32",
    )


PRESETS = {
    preset.__name__: preset
    for preset in (
        nemotron4_340b,
        nemotron4_15b,
        nemotron3_22b,
        nemotron3_8b,
        minitron_8b,
        minitron_4b,
        llama2_7b,
        llama2_13b,
        llama2_70b,
        llama3_8b,
        llama3_70b,
        llama31_8b,
        llama31_70b,
        llama31_405b,
        miniature,
        small,
        nano,
    )
}


def get(name: str) -> ModelConfig:
    """Returns the preset of that name.

    Raises:
      UserError: no such preset; the message lists the valid names.
    """
    if name not in PRESETS:
        raise UserError(f"unknown model {name!r}; one of {', '.join(PRESETS)}")
    return PRESETS[name]()

"""Named model sizes. Sources: the Nemotron-4 reports and their model cards."""

from nemojax.models.config import ModelConfig


def nemotron4_340b() -> ModelConfig:
    """Nemotron-4-340B: 341,029,195,776 parameters (340B report, Table 1)."""
    return ModelConfig(
        vocab_size=256_000,
        num_layers=96,
        d_model=18_432,
        num_heads=96,
        num_kv_heads=8,
        head_dim=192,
        d_ff=73_728,
        init_std=0.0063,
    )


def nemotron4_15b() -> ModelConfig:
    """Nemotron-4-15B: 15,628,775,424 parameters (15B report, Table 1)."""
    return ModelConfig(
        vocab_size=256_000,
        num_layers=32,
        d_model=6_144,
        num_heads=48,
        num_kv_heads=8,
        head_dim=128,
        d_ff=24_576,
    )


def minitron_4b() -> ModelConfig:
    """Minitron-4B, also Nemotron-Mini-4B: 4,190,509,056 parameters."""
    return ModelConfig(
        vocab_size=256_000,
        num_layers=32,
        d_model=3_072,
        num_heads=24,
        num_kv_heads=8,
        head_dim=128,
        d_ff=9_216,
    )


def miniature(vocab_size: int = 704) -> ModelConfig:
    """The half-million-parameter model of the miniature recipe."""
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
    """A few million parameters: the recipe on real text on a laptop CPU."""
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


PRESETS = {
    preset.__name__: preset
    for preset in (nemotron4_340b, nemotron4_15b, minitron_4b, miniature, small)
}


def get(name: str) -> ModelConfig:
    """The preset of that name.

    Raises:
      ValueError: no such preset; the message lists the valid names.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown model {name!r}; one of {', '.join(PRESETS)}")
    return PRESETS[name]()

"""The description of a decoder: sizes, published constants, kinds of its parts."""

import dataclasses

from nemojax.errors import UserError

NORMS = ("layernorm1p", "rmsnorm")
ACTIVATIONS = ("squared_relu", "swiglu")
_COUNTS = (
    "vocab_size",
    "num_layers",
    "d_model",
    "num_heads",
    "head_dim",
    "d_ff",
    "max_positions",
    "vocab_chunk",
)


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretching of rotary frequencies for longer contexts.

    Wavelengths below `original_positions / high_frequency_factor` stay, those above
    `original_positions / low_frequency_factor` are `factor` times as long, and those
    between are interpolated.

    Attributes:
      factor: factor by which the context becomes longer.
      low_frequency_factor, high_frequency_factor: ends of the two regimes.
      original_positions: context that the model was first trained on.
    """

    factor: float = 8.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_positions: int = 8192

    def __post_init__(self):
        if not 0 < self.low_frequency_factor < self.high_frequency_factor:
            raise UserError(
                f"low_frequency_factor={self.low_frequency_factor} must be positive "
                f"and less than high_frequency_factor={self.high_frequency_factor}"
            )
        if self.factor < 1 or self.original_positions < 1:
            raise UserError(f"{self} needs factor >= 1 and original_positions >= 1")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A pre-norm decoder: grouped-query attention, rotary positions, no linear bias.

    The defaults are Nemotron's (Nemotron-4 340B report, section 2.1): LayerNorm1P with
    bias, rotary embedding on half of each head, squared-ReLU MLP, separate input and
    output embeddings. Llama's differ in `norm`, `activation` and the rotary fields.

    Attributes:
      vocab_size: rows of the two embedding tables.
      num_layers: decoder layers.
      d_model: width of the residual stream.
      num_heads: query heads; `num_heads * head_dim` need not equal `d_model`.
      num_kv_heads: key and value heads; divides `num_heads`.
      head_dim: width of one head.
      d_ff: width of the MLP's hidden layer.
      rotary_fraction: share of each head that is rotated, from 0 to 1.
      rope_theta: base of the rotary frequencies.
      rope_scaling: stretching of the frequencies; None: none.
      norm: one of `NORMS`.
      activation: activation of the MLP, one of `ACTIVATIONS`; "swiglu" has a gate.
      tied_embeddings: the output embedding is the input embedding.
      norm_epsilon: added to the variance (the mean square of RMSNorm).
      init_std: standard deviation of initial weights; the two output projections
        of a layer use `init_std / sqrt(2 * num_layers)`.
      max_positions: context that the model was trained for; nothing enforces it.
      compute_dtype: dtype of activations and of weights at use; parameters are
        stored in float32.
      vocab_chunk: columns of the logits that exist at one time per token in the
        fused cross-entropy.
    """

    vocab_size: int
    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    rotary_fraction: float = 0.5
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm: str = "layernorm1p"
    activation: str = "squared_relu"
    tied_embeddings: bool = False
    norm_epsilon: float = 1e-5
    init_std: float = 0.0134
    max_positions: int = 4096
    compute_dtype: str = "bfloat16"
    vocab_chunk: int = 8192

    def __post_init__(self):
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}")
        for name, value, valid in (
            ("norm", self.norm, NORMS),
            ("activation", self.activation, ACTIVATIONS),
        ):
            if value not in valid:
                raise UserError(f"{name}={value!r} is not one of {', '.join(valid)}")
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise UserError(
                f"num_kv_heads={self.num_kv_heads} must divide "
                f"num_heads={self.num_heads}"
            )
        if not 0 <= self.rotary_fraction <= 1:
            raise UserError(f"rotary_fraction={self.rotary_fraction} is no share")
        if self.rotary_dim % 2:
            raise UserError(
                f"rotary_fraction={self.rotary_fraction} of head_dim={self.head_dim} "
                f"is {self.rotary_dim}, which is not even"
            )

    @property
    def rotary_dim(self) -> int:
        """Dimensions of each head that are rotated."""
        return int(self.head_dim * self.rotary_fraction)

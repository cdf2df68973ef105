"""The description of a decoder: sizes and the published constants."""

import dataclasses

_COUNTS = (
    "vocab_size",
    "num_layers",
    "d_model",
    "num_heads",
    "head_dim",
    "d_ff",
    "vocab_chunk",
)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A Nemotron-shaped decoder (Nemotron-4 340B report, section 2.1).

    Pre-norm decoder with LayerNorm1P (with bias), rotary embedding on a part of each
    head, grouped-query attention, squared-ReLU MLP, no bias in linear layers, and
    separate input and output embeddings.

    Attributes:
      vocab_size: rows of the two embedding tables.
      num_layers: decoder layers.
      d_model: width of the residual stream.
      num_heads: query heads; `num_heads * head_dim` need not equal `d_model`.
      num_kv_heads: key and value heads; divides `num_heads`.
      head_dim: width of one head.
      d_ff: width of the MLP's hidden layer.
      rotary_fraction: share of each head that is rotated.
      rope_theta: base of the rotary frequencies.
      norm_epsilon: added to the variance in LayerNorm.
      init_std: standard deviation of initial weights; the two output projections
        of a layer use `init_std / sqrt(2 * num_layers)`.
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
    norm_epsilon: float = 1e-5
    init_std: float = 0.0134
    compute_dtype: str = "bfloat16"
    vocab_chunk: int = 8192

    def __post_init__(self):
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads={self.num_kv_heads} must divide "
                f"num_heads={self.num_heads}"
            )
        if self.rotary_dim % 2:
            raise ValueError(
                f"rotary_fraction={self.rotary_fraction} of head_dim={self.head_dim} "
                f"is {self.rotary_dim}, which is not even"
            )

    @property
    def rotary_dim(self) -> int:
        """Dimensions of each head that are rotated."""
        return int(self.head_dim * self.rotary_fraction)

"""Exact numbers of parameters and of arithmetic operations."""

import dataclasses
import functools
import math

import jax

from nemojax.models import forward
from nemojax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Numbers of parameters, counted on the shapes of the tree.

    Attributes:
      embedding: input and output embedding (once if they are tied).
      non_embedding: number of all other parameters, norms included.
    """

    embedding: int
    non_embedding: int

    @property
    def total(self) -> int:
        """Adds the parameters of the embedding to the others."""
        return self.embedding + self.non_embedding

    def to_json(self) -> dict[str, int]:
        """Returns a JSON object with `embedding`, `non_embedding` and `total`."""
        return dataclasses.asdict(self) | {"total": self.total}


@functools.cache
def parameters(config: ModelConfig) -> Parameters:
    """Counts the parameters of a language model; nothing is allocated."""
    sizes = {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(branch))
        for name, branch in forward.shapes(config).items()
    }
    embedding = sizes["embedding"] + sizes.get("lm_head", 0)
    return Parameters(embedding, sum(sizes.values()) - embedding)


def layer_matrix_parameters(config: ModelConfig) -> int:
    """Counts the parameters of a layer's matrices, two operations a token each."""
    attention = config.head_dim * (2 * config.num_heads + 2 * config.num_kv_heads)
    matrices = 3 if config.activation == "swiglu" else 2
    return config.d_model * (attention + matrices * config.d_ff)


def attention_flops(config: ModelConfig, length: int, *, causal: bool) -> float:
    """Counts one layer's operations for scores and mixtures, forward, a sequence."""
    full = 4.0 * length * length * config.num_heads * config.head_dim
    return full / 2 if causal else full


def flops_per_sequence(
    config: ModelConfig, length: int, *, causal: bool = False
) -> float:
    """Counts the operations of a training step for a sequence, forward and backward.

    Six for each parameter of a matrix and each token, the input embedding left out,
    plus attention. Without `causal` attention counts as if it saw the future too: the
    convention of Megatron, and of the utilisation in Table 2 of the 340B report.
    """
    head = config.vocab_size * config.d_model
    matrices = config.num_layers * layer_matrix_parameters(config) + head
    attention = config.num_layers * attention_flops(config, length, causal=causal)
    return 6.0 * matrices * length + 3.0 * attention

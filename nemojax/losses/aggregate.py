"""From the predicted attributes of a response to one reward."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

# Weights of helpfulness, correctness, coherence, complexity and verbosity, as the
# model cards of the two released reward models give them.
ATTRIBUTE_WEIGHTS: dict[str, tuple[float, ...]] = {
    "nemotron4_340b": (0.3, 0.74, 0.46, 0.47, -0.33),
    "llama3_70b": (0.65, 0.8, 0.45, 0.55, -0.4),
}


def aggregate(attributes_NK: jax.Array, weights: Sequence[float]) -> jax.Array:
    """Returns float32[N]: the weighted sum of the attributes.

    Args:
      attributes_NK: attributes of each response, not clipped.
      weights: one for each attribute, such as one of `ATTRIBUTE_WEIGHTS`.

    Raises:
      ValueError: if there is not one weight for each attribute.
    """
    attributes_NK = jnp.asarray(attributes_NK, jnp.float32)
    if attributes_NK.shape[-1] != len(weights):
        raise ValueError(
            f"{len(weights)} weights for {attributes_NK.shape[-1]} attributes"
        )
    # Not a matrix product, which some accelerators round to bfloat16.
    return jnp.sum(attributes_NK * jnp.asarray(weights, jnp.float32), axis=-1)

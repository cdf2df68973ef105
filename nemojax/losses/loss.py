"""Results of losses: a value and a weight for each example."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Pairs (sum, weight): they add up over the parts of a batch.
Metrics = dict[str, tuple[jax.Array, jax.Array]]


class Loss(NamedTuple):
    """Losses of examples; all arrays are float32 and of one shape.

    Attributes:
      values: values of each example; 0 where the weight is 0.
      weights: weights of each example in the mean; 0 for padding.
      metrics: further values to report, weighted alike.
    """

    values: jax.Array
    weights: jax.Array
    metrics: dict[str, jax.Array]


def reduce(loss: Loss) -> tuple[jax.Array, jax.Array, Metrics]:
    """Sums a loss, its weight (both float32 []) and its metrics, pairs of these.

    The mean over a global batch is the sum of sums over the sum of weights, however
    the batch is split; a mean of means would depend on the split.
    """
    weight = jnp.sum(loss.weights)
    metrics = {
        name: (jnp.sum(values * loss.weights), weight)
        for name, values in loss.metrics.items()
    }
    return jnp.sum(loss.values * loss.weights), weight, metrics


def select(values: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Returns values as float32, 0 where they are not valid, NaN or not."""
    values = jnp.asarray(values, jnp.float32)
    return values if valid is None else jnp.where(valid > 0, values, 0.0)

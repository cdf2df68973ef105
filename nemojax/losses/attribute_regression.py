"""Regression on several attributes: the reward model of HelpSteer2 and Nemotron-4."""

import jax
import jax.numpy as jnp

Metrics = dict[str, tuple[jax.Array, jax.Array]]


def loss(
    predictions_NK: jax.Array,
    labels_NK: jax.Array,
    *,
    missing: float = -100.0,
    weights_N: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, Metrics]:
    """Returns the squared error summed over labelled entries, and their number.

    The weight counts entries, not examples: one with more labels weighs more.

    Args:
      predictions_NK: predicted attributes on the scale of the labels, 0 to 4.
      labels_NK: annotated attributes, `missing` where there is none.
      missing: the label that marks an entry as not annotated.
      weights_N: weight of each example, 0 for padding; by default 1.

    Returns:
      Loss sum, weight (both float32 []) and metrics, pairs (sum, weight) too.
    """
    labels_NK = jnp.asarray(labels_NK, jnp.float32)
    weights_NK = (labels_NK != missing).astype(jnp.float32)
    if weights_N is not None:
        weights_NK *= jnp.asarray(weights_N, jnp.float32)[:, None]
    error_NK = jnp.where(
        weights_NK > 0, jnp.asarray(predictions_NK, jnp.float32) - labels_NK, 0.0
    )
    loss_sum = jnp.sum(weights_NK * jnp.square(error_NK))
    weight = jnp.sum(weights_NK)
    metrics = {
        "squared_error": (loss_sum, weight),
        "absolute_error": (jnp.sum(weights_NK * jnp.abs(error_NK)), weight),
    }
    return loss_sum, weight, metrics

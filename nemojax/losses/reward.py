"""Losses of reward models, and one reward from several attributes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nemojax.losses.loss import Loss, select

# Weights of helpfulness, correctness, coherence, complexity and verbosity, as the
# model cards of the two released reward models give them.
ATTRIBUTE_WEIGHTS: dict[str, tuple[float, ...]] = {
    "nemotron4_340b": (0.3, 0.74, 0.46, 0.47, -0.33),
    "llama3_70b": (0.65, 0.8, 0.45, 0.55, -0.4),
}

# What is made of a pair's margin in Bradley-Terry: nothing, a shift, a weight.
PAIRWISE = ("plain", "margin", "scaled")


def aggregate(attributes_NK: Any, weights: Sequence[float]) -> Any:
    """Returns the weighted sum of the attributes: [N], or [] for those of one response.

    Args:
      attributes_NK: attributes of each response, not clipped: an array of jax, which is
        summed in float32, or one of numpy, which is summed there.
      weights: one for each attribute, such as one of `ATTRIBUTE_WEIGHTS`.

    Raises:
      ValueError: if there is not one weight for each attribute.
    """
    if attributes_NK.shape[-1] != len(weights):
        raise ValueError(
            f"{len(weights)} weights for {attributes_NK.shape[-1]} attributes"
        )
    # Not a matrix product, which some accelerators round to bfloat16.
    return (attributes_NK * np.asarray(weights)).sum(axis=-1)


def attribute_regression(
    predictions_NK: jax.Array,
    labels_NK: jax.Array,
    *,
    missing: float = -100.0,
    weights_N: jax.Array | None = None,
) -> Loss:
    """Computes squared errors of labelled attributes (HelpSteer2, section 3).

    The weights count labels, not examples: one with more labels weighs more.

    Args:
      predictions_NK: predicted attributes on the scale of the labels, 0 to 4.
      labels_NK: annotated attributes, `missing` where there is none.
      missing: the label that marks an entry as not annotated.
      weights_N: weight of each example, 0 for padding; by default 1.

    Returns:
      A loss with a value for each attribute [N, K].
    """
    labels_NK = jnp.asarray(labels_NK, jnp.float32)
    weights_NK = (labels_NK != missing).astype(jnp.float32)
    if weights_N is not None:
        weights_NK *= jnp.asarray(weights_N, jnp.float32)[:, None]
    error_NK = select(jnp.asarray(predictions_NK, jnp.float32) - labels_NK, weights_NK)
    squared_NK = jnp.square(error_NK)
    metrics = {"squared_error": squared_NK, "absolute_error": jnp.abs(error_NK)}
    return Loss(squared_NK, weights_NK, metrics)


def bradley_terry(
    chosen_N: jax.Array,
    rejected_N: jax.Array,
    *,
    margin: jax.Array | None = None,
    scale: jax.Array | None = None,
    valid: jax.Array | None = None,
) -> Loss:
    """Computes -scale * log sigmoid(chosen - rejected - margin) of each pair.

    Args:
      chosen_N: rewards of the chosen responses.
      rejected_N: rewards of the rejected responses.
      margin: [N], by how much chosen should win (Llama 2, section 3.2.2).
      scale: [N], weight of a pair by the strength of its preference
        (HelpSteer2-Preference).
      valid: [N], 0 for entries that are no pairs; by default all are.
    """
    chosen_N, rejected_N = select(chosen_N, valid), select(rejected_N, valid)
    gap_N = chosen_N - rejected_N
    shift_N = 0.0 if margin is None else select(margin, valid)
    loss_N = -jax.nn.log_sigmoid(gap_N - shift_N)
    if scale is not None:
        loss_N *= select(scale, valid)
    metrics = {
        "preference_loss": loss_N,
        "chosen_reward": chosen_N,
        "rejected_reward": rejected_N,
        "reward_gap": gap_N,
        "accuracy": (gap_N > 0).astype(jnp.float32),
    }
    return Loss(loss_N, select(jnp.ones_like(gap_N), valid), metrics)

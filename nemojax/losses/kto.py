"""Kahneman-Tversky optimisation: responses that are good or bad, without a pair."""

import jax
import jax.numpy as jnp

from nemojax.losses.loss import Loss
from nemojax.losses.pairs import Judged, prepared


def kto(
    judged: Judged,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Loss:
    """Computes Kahneman-Tversky optimisation (Ethayarajh et al. 2024, eq. 7 and 8).

    weight * sigmoid(-beta (log ratio - baseline)) of a desirable response, and weight *
    sigmoid(beta (log ratio - baseline)) of an undesirable one. The baseline estimates
    KL(policy || reference): the mean log ratio of all mismatched responses, at least 0
    and without gradient. It is one number of the responses given together.

    Args:
      judged: log-probs and reference are used.
      beta: KL coefficient; the paper uses 0.1.
      desirable_weight: weight of a desirable response.
      undesirable_weight: weight of an undesirable response; the paper wants the sums
        of both over the data within 1 to 4/3 of each other.

    Raises:
      ValueError: the responses lack a field.
    """
    responses, mismatched, desirable_N, valid_N = prepared(judged, "reference")
    ratio_N = responses.log_ratios
    count = jnp.maximum(jnp.sum(valid_N), 1.0)
    baseline = jnp.maximum(jnp.sum(mismatched.log_ratios * valid_N) / count, 0.0)
    baseline = jax.lax.stop_gradient(baseline)
    good_N = desirable_N > 0
    # By how much the reward is on the side that it should be on.
    reward_N = beta * (ratio_N - baseline) * jnp.where(good_N, 1.0, -1.0)
    weight_N = jnp.where(good_N, desirable_weight, undesirable_weight)
    loss_N = weight_N * jax.nn.sigmoid(-reward_N)
    metrics = {
        "preference_loss": loss_N,
        "log_prob": responses.log_probs,
        "log_ratio": ratio_N,
        "implicit_reward": beta * ratio_N,
        "kl_baseline": jnp.full_like(ratio_N, baseline),
        "accuracy": (reward_N > 0).astype(jnp.float32),
    }
    return Loss(loss_N * valid_N, valid_N, metrics)

"""Bradley-Terry loss of pairwise reward models."""

import jax
import jax.numpy as jnp

from nemojax.losses import preferences


def per_pair(
    chosen_N: jax.Array,
    rejected_N: jax.Array,
    *,
    margin: jax.Array | None = None,
    scale: jax.Array | None = None,
) -> jax.Array:
    """Returns float32[N]: -scale * log sigmoid(chosen - rejected - margin).

    Args:
      chosen_N, rejected_N: rewards of the responses.
      margin: [N], by how much chosen should win (Llama 2, section 3.2.2).
      scale: [N], weight of a pair by the strength of its preference
        (HelpSteer2-Preference).
    """
    gap_N = jnp.asarray(chosen_N, jnp.float32) - jnp.asarray(rejected_N, jnp.float32)
    if margin is not None:
        gap_N -= jnp.asarray(margin, jnp.float32)
    loss_N = -jax.nn.log_sigmoid(gap_N)
    return loss_N if scale is None else jnp.asarray(scale, jnp.float32) * loss_N


def loss(
    chosen_N: jax.Array,
    rejected_N: jax.Array,
    *,
    margin: jax.Array | None = None,
    scale: jax.Array | None = None,
    valid: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, preferences.Metrics]:
    """Returns the loss summed over pairs, their number, and metrics.

    Args:
      chosen_N, rejected_N, margin, scale: see `per_pair`.
      valid: [N], 0 for entries that are no pairs; by default all are.
    """
    chosen_N = preferences.select(chosen_N, valid)
    rejected_N = preferences.select(rejected_N, valid)
    valid_N = preferences.select(jnp.ones_like(chosen_N), valid)
    per_pair_N = per_pair(
        chosen_N,
        rejected_N,
        margin=None if margin is None else preferences.select(margin, valid),
        scale=None if scale is None else preferences.select(scale, valid),
    )
    weight = jnp.sum(valid_N)
    values = {
        "preference_loss": per_pair_N,
        "chosen_reward": chosen_N,
        "rejected_reward": rejected_N,
        "reward_gap": chosen_N - rejected_N,
        "accuracy": (chosen_N > rejected_N).astype(jnp.float32),
    }
    metrics = {
        name: (jnp.sum(value_N * valid_N), weight) for name, value_N in values.items()
    }
    return metrics["preference_loss"][0], weight, metrics

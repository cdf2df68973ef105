"""What the losses on preference pairs share: log ratios, SFT term, metrics."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Metrics = dict[str, tuple[jax.Array, jax.Array]]


class Pairs(NamedTuple):
    """Log-probs of N preference pairs, float32[N], 0 where a pair is not valid.

    Attributes:
      policy_chosen: log pi(y_chosen | x), summed over tokens.
      chosen_log_ratio: log pi(y_chosen | x) - log pi_ref(y_chosen | x).
      rejected_log_ratio: the same of the rejected response.
      valid: 1 for a pair, 0 for padding.
    """

    policy_chosen: jax.Array
    chosen_log_ratio: jax.Array
    rejected_log_ratio: jax.Array
    valid: jax.Array

    @property
    def gap(self) -> jax.Array:
        """The policy's log odds of chosen over rejected, relative to the reference."""
        return self.chosen_log_ratio - self.rejected_log_ratio


def select(values_N: jax.Array, valid_N: jax.Array | None) -> jax.Array:
    """Returns values as float32, 0 where they are not valid, NaN or not."""
    values_N = jnp.asarray(values_N, jnp.float32)
    return values_N if valid_N is None else jnp.where(valid_N > 0, values_N, 0.0)


def pairs(
    policy_chosen_N: jax.Array,
    policy_rejected_N: jax.Array,
    reference_chosen_N: jax.Array,
    reference_rejected_N: jax.Array,
    valid_N: jax.Array | None,
) -> Pairs:
    """Returns the log ratios of pairs given sequence log-probs [N]."""
    policy_chosen_N = select(policy_chosen_N, valid_N)
    return Pairs(
        policy_chosen=policy_chosen_N,
        chosen_log_ratio=policy_chosen_N - select(reference_chosen_N, valid_N),
        rejected_log_ratio=(
            select(policy_rejected_N, valid_N) - select(reference_rejected_N, valid_N)
        ),
        valid=select(jnp.ones_like(policy_chosen_N), valid_N),
    )


def total(
    per_pair_N: jax.Array,
    pairs_N: Pairs,
    *,
    beta: float,
    sft_weight: float,
    preference_weight: float,
    extra: dict[str, jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array, Metrics]:
    """Adds the SFT term to a preference loss.

    loss = preference_weight * per_pair - sft_weight * log pi(y_chosen | x), summed
    over pairs. The SFT term keeps the policy from losing its chosen responses.

    Args:
      per_pair_N: preference loss of each pair.
      pairs_N: the pairs.
      beta: KL coefficient, which turns log ratios into implicit rewards.
      sft_weight: weight of the SFT term; it is a sum over tokens.
      preference_weight: weight of the preference term.
      extra: more values [N] to report.

    Returns:
      Loss sum, number of valid pairs, and metrics as pairs (sum, weight).

    Raises:
      ValueError: if both weights are 0.
    """
    if sft_weight == 0 and preference_weight == 0:
        raise ValueError("sft_weight and preference_weight are both 0: no loss is left")
    sft_N = -pairs_N.policy_chosen
    values = {
        "preference_loss": per_pair_N,
        "sft_loss": sft_N,
        "chosen_log_ratio": pairs_N.chosen_log_ratio,
        "rejected_log_ratio": pairs_N.rejected_log_ratio,
        "log_ratio_gap": pairs_N.gap,
        "implicit_reward_chosen": beta * pairs_N.chosen_log_ratio,
        "implicit_reward_rejected": beta * pairs_N.rejected_log_ratio,
        "implicit_reward_gap": beta * pairs_N.gap,
        # A tie is no success: a policy equal to its reference has accuracy 0.
        "accuracy": (pairs_N.gap > 0).astype(jnp.float32),
        **(extra or {}),
    }
    weight = jnp.sum(pairs_N.valid)
    metrics = {
        name: (jnp.sum(value_N * pairs_N.valid), weight)
        for name, value_N in values.items()
    }
    loss_N = preference_weight * per_pair_N + sft_weight * sft_N
    return jnp.sum(loss_N * pairs_N.valid), weight, metrics

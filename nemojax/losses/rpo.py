"""Reward-aware preference optimisation (the report, section 3.3.2).

DPO only learns that one response is better, and pushes the two apart without end.
RPO learns by how much: the gap of implicit rewards approaches that of the rewards.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from nemojax.losses import preferences

Distance = Literal["backward_kl", "forward_kl", "squared"]


def _bernoulli_kl(x_N: jax.Array, y_N: jax.Array) -> jax.Array:
    """KL(Bernoulli(sigmoid(x)) || Bernoulli(sigmoid(y))), safe for large logits."""
    log_sigmoid = jax.nn.log_sigmoid
    return jax.nn.sigmoid(x_N) * (log_sigmoid(x_N) - log_sigmoid(y_N)) + jax.nn.sigmoid(
        -x_N
    ) * (log_sigmoid(-x_N) - log_sigmoid(-y_N))


def per_pair(
    implicit_gap_N: jax.Array,
    target_gap_N: jax.Array,
    *,
    distance: Distance = "backward_kl",
) -> jax.Array:
    """Returns float32[N]: the distance of two reward gaps, 0 only where they agree.

    With x the implicit gap, y the target and p, q their sigmoids:

    * backward_kl, the report's: KL(Bernoulli(q) || Bernoulli(p)), the target is the
      weighting distribution; gradient with respect to x: p - q. As y grows it becomes
      DPO.
    * forward_kl: KL(Bernoulli(p) || Bernoulli(q)); gradient p (1 - p) (x - y), which
      vanishes for a confident policy.
    * squared: (x - y)^2; gradient 2 (x - y).

    Args:
      implicit_gap_N: x = beta * (chosen log ratio - rejected log ratio).
      target_gap_N: y = eta * (chosen reward - rejected reward), finite.
      distance: one of the above.

    Raises:
      ValueError: if the distance is unknown.
    """
    x_N = jnp.asarray(implicit_gap_N, jnp.float32)
    y_N = jnp.asarray(target_gap_N, jnp.float32)
    if distance == "backward_kl":
        return _bernoulli_kl(y_N, x_N)
    if distance == "forward_kl":
        return _bernoulli_kl(x_N, y_N)
    if distance == "squared":
        return jnp.square(x_N - y_N)
    raise ValueError(
        f"distance {distance!r} is none of {', '.join(get_args(Distance))}"
    )


def loss(
    policy_chosen_N: jax.Array,
    policy_rejected_N: jax.Array,
    reference_chosen_N: jax.Array,
    reference_rejected_N: jax.Array,
    chosen_reward_N: jax.Array,
    rejected_reward_N: jax.Array,
    *,
    beta: float,
    eta: float = 1.0,
    distance: Distance = "backward_kl",
    sft_weight: float = 0.0,
    preference_weight: float = 1.0,
    valid: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, preferences.Metrics]:
    """Returns the RPO loss summed over pairs, their number, and metrics.

    Args:
      policy_chosen_N, policy_rejected_N: log-probs of the responses, summed over
        tokens.
      reference_chosen_N, reference_rejected_N: the same of the reference policy.
      chosen_reward_N, rejected_reward_N: rewards of the responses. A pair whose
        chosen response has the lower one is legal.
      beta: KL coefficient; the report searches [1e-3, 1].
      eta: scale of the rewards; the report uses 1.
      distance: see `per_pair`.
      sft_weight: weight of -log pi(chosen), a sum over tokens; the report uses 1e-5.
      preference_weight: weight of the RPO term.
      valid: [N], 0 for entries that are no pairs; by default all are.

    Raises:
      ValueError: if both weights are 0, or the distance is unknown.
    """
    pairs_N = preferences.pairs(
        policy_chosen_N,
        policy_rejected_N,
        reference_chosen_N,
        reference_rejected_N,
        valid,
    )
    target_gap_N = eta * (
        preferences.select(chosen_reward_N, valid)
        - preferences.select(rejected_reward_N, valid)
    )
    per_pair_N = per_pair(beta * pairs_N.gap, target_gap_N, distance=distance)
    return preferences.total(
        per_pair_N,
        pairs_N,
        beta=beta,
        sft_weight=sft_weight,
        preference_weight=preference_weight,
        extra={"target_reward_gap": target_gap_N},
    )

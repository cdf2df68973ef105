"""Direct preference optimisation with an SFT term (the report, section 3.3.1)."""

import jax
import jax.numpy as jnp

from nemojax.losses import preferences


def per_pair(
    gap_N: jax.Array, *, beta: float, label_smoothing: float = 0.0
) -> jax.Array:
    """Returns float32[N]: -(1 - s) log sigmoid(beta gap) - s log sigmoid(-beta gap).

    Its gradient with respect to the gap is beta (sigmoid(beta gap) - (1 - s)).

    Args:
      gap_N: log [pi(chosen) / ref(chosen)] - log [pi(rejected) / ref(rejected)].
      beta: KL coefficient; the report searches [3e-4, 3e-3].
      label_smoothing: s, the probability that a preference label is wrong; 0 is DPO,
        more is "conservative" DPO.

    Raises:
      ValueError: if label_smoothing is outside of [0, 0.5).
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing {label_smoothing} is outside of [0, 0.5)")
    logits_N = beta * jnp.asarray(gap_N, jnp.float32)
    loss_N = -(1 - label_smoothing) * jax.nn.log_sigmoid(logits_N)
    if label_smoothing:
        loss_N -= label_smoothing * jax.nn.log_sigmoid(-logits_N)
    return loss_N


def loss(
    policy_chosen_N: jax.Array,
    policy_rejected_N: jax.Array,
    reference_chosen_N: jax.Array,
    reference_rejected_N: jax.Array,
    *,
    beta: float,
    sft_weight: float = 0.0,
    preference_weight: float = 1.0,
    label_smoothing: float = 0.0,
    valid: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, preferences.Metrics]:
    """Returns the DPO loss summed over pairs, their number, and metrics.

    Args:
      policy_chosen_N, policy_rejected_N: log-probs of the responses, summed over
        tokens.
      reference_chosen_N, reference_rejected_N: the same of the reference policy.
      beta: KL coefficient.
      sft_weight: weight of -log pi(chosen), a sum over tokens; the report searches
        [1e-5, 1e-3].
      preference_weight: weight of the DPO term.
      label_smoothing: see `per_pair`.
      valid: [N], 0 for entries that are no pairs; by default all are.

    Raises:
      ValueError: if both weights are 0, or for a bad label_smoothing.
    """
    pairs_N = preferences.pairs(
        policy_chosen_N,
        policy_rejected_N,
        reference_chosen_N,
        reference_rejected_N,
        valid,
    )
    per_pair_N = per_pair(pairs_N.gap, beta=beta, label_smoothing=label_smoothing)
    return preferences.total(
        per_pair_N,
        pairs_N,
        beta=beta,
        sft_weight=sft_weight,
        preference_weight=preference_weight,
    )

"""Losses on pairs that refer to a reference policy: DPO and its relatives, and RPO.

DPO only learns that one response is better, and pushes the two apart without end. RPO
learns by how much: the gap of implicit rewards approaches that of the rewards (340B
report, section 3.3). Unless a function says otherwise log-probs are sums over the
tokens of a response: the report's coefficients mean nothing for means.

Implicit rewards are beta times the log ratios of policy and reference; the gap is that
of the log ratios, chosen less rejected.
"""

from typing import Unpack

import jax
import jax.numpy as jnp

from nemojax.losses.loss import Loss
from nemojax.losses.pairs import Pairs, Terms, combined, prepared

DISTANCES = ("backward_kl", "forward_kl", "squared")


def dpo(
    pairs: Pairs, *, beta: float, label_smoothing: float = 0.0, **terms: Unpack[Terms]
) -> Loss:
    """Computes direct preference optimisation (340B report, section 3.3.1).

    Llama 3's (section 4.1.4) is the one with `beta=0.1, sft_weight=0.2,
    sft_average=True` and a loss mask that leaves out format tokens.

    Args:
      pairs: log-probs and reference are used.
      beta: KL coefficient; the report searches [3e-4, 3e-3].
      label_smoothing: probability that a label is wrong; more than 0 is "conservative"
        DPO.
      **terms: see `Terms`; the report searches `sft_weight` in [1e-5, 1e-3].

    Raises:
      ValueError: both weights are 0, label_smoothing is outside of [0, 0.5), or the
        pairs lack a field.
    """
    pairs = prepared(pairs, "reference")
    chosen_N, rejected_N = pairs.chosen.log_ratios, pairs.rejected.log_ratios
    loss_N = logistic(chosen_N - rejected_N, beta=beta, label_smoothing=label_smoothing)
    return combined(pairs, loss_N, beta * chosen_N, beta * rejected_N, **terms)


def dpo_norm(
    pairs: Pairs, *, beta: float, label_smoothing: float = 0.0, **terms: Unpack[Terms]
) -> Loss:
    """Computes DPO on log ratios per response token (Tülu 3, section 5.1).

    Args:
      pairs: log-probs, reference and tokens are used.
      beta: KL coefficient; Tülu 3 uses 5.
      label_smoothing: probability that a label is wrong.
      **terms: see `Terms`.

    Raises:
      ValueError: as `dpo`.
    """
    pairs = prepared(pairs, "reference", "tokens")
    chosen_N, rejected_N = pairs.chosen.mean_log_ratios, pairs.rejected.mean_log_ratios
    loss_N = logistic(chosen_N - rejected_N, beta=beta, label_smoothing=label_smoothing)
    return combined(pairs, loss_N, beta * chosen_N, beta * rejected_N, **terms)


def ipo(pairs: Pairs, *, beta: float, **terms: Unpack[Terms]) -> Loss:
    """Computes (gap - 1 / (2 beta))^2, identity preference optimisation (Azar 2023).

    Args:
      pairs: log-probs and reference are used; the gap is one of sums.
      beta: KL coefficient.
      **terms: see `Terms`.

    Raises:
      ValueError: as `dpo`.
    """
    pairs = prepared(pairs, "reference")
    chosen_N, rejected_N = pairs.chosen.log_ratios, pairs.rejected.log_ratios
    loss_N = jnp.square(chosen_N - rejected_N - 1 / (2 * beta))
    return combined(pairs, loss_N, beta * chosen_N, beta * rejected_N, **terms)


def apo_zero(pairs: Pairs, *, beta: float, **terms: Unpack[Terms]) -> Loss:
    """Computes anchored preference optimisation for responses better than the policy's.

    sigmoid(-chosen) + sigmoid(rejected) of the implicit rewards (D'Oosterlinck et al.
    2024, equation 7): one likelihood rises, the other falls.

    Args:
      pairs: log-probs and reference are used.
      beta: KL coefficient.
      **terms: see `Terms`.

    Raises:
      ValueError: as `dpo`.
    """
    pairs = prepared(pairs, "reference")
    chosen_N, rejected_N = (beta * side.log_ratios for side in pairs[:2])
    loss_N = jax.nn.sigmoid(-chosen_N) + jax.nn.sigmoid(rejected_N)
    return combined(pairs, loss_N, chosen_N, rejected_N, **terms)


def apo_down(pairs: Pairs, *, beta: float, **terms: Unpack[Terms]) -> Loss:
    """Computes anchored preference optimisation for responses worse than the policy's.

    sigmoid(chosen) + sigmoid(rejected - chosen) of the implicit rewards (D'Oosterlinck
    et al. 2024, equation 8): both likelihoods fall, that of the rejected one more.

    Args:
      pairs: log-probs and reference are used.
      beta: KL coefficient.
      **terms: see `Terms`.

    Raises:
      ValueError: as `dpo`.
    """
    pairs = prepared(pairs, "reference")
    chosen_N, rejected_N = (beta * side.log_ratios for side in pairs[:2])
    loss_N = jax.nn.sigmoid(chosen_N) + jax.nn.sigmoid(rejected_N - chosen_N)
    return combined(pairs, loss_N, chosen_N, rejected_N, **terms)


def rpo(
    pairs: Pairs,
    *,
    beta: float,
    eta: float = 1.0,
    distance: str = "backward_kl",
    **terms: Unpack[Terms],
) -> Loss:
    """Computes reward-aware preference optimisation (340B report, section 3.3.2).

    Args:
      pairs: log-probs, reference and rewards are used. A pair whose chosen response
        has the lower reward is legal.
      beta: KL coefficient; the report searches [1e-3, 1].
      eta: scale of the rewards; the report uses 1.
      distance: see `reward_distance`; "backward_kl" is the report's.
      **terms: see `Terms`; the report's `sft_weight` is 1e-5.

    Raises:
      ValueError: both weights are 0, the distance is unknown, or the pairs lack a
        field.
    """
    pairs = prepared(pairs, "reference", "rewards")
    chosen_N, rejected_N = pairs.chosen.log_ratios, pairs.rejected.log_ratios
    target_gap_N = eta * (pairs.chosen.rewards - pairs.rejected.rewards)
    loss_N = reward_distance(beta * (chosen_N - rejected_N), target_gap_N, distance)
    loss = combined(pairs, loss_N, beta * chosen_N, beta * rejected_N, **terms)
    return loss._replace(metrics=loss.metrics | {"target_reward_gap": target_gap_N})


def logistic(
    gap_N: jax.Array, *, beta: float, label_smoothing: float = 0.0
) -> jax.Array:
    """Returns float32[N]: -(1 - s) log sigmoid(beta gap) - s log sigmoid(-beta gap).

    Its gradient with respect to the gap is beta (sigmoid(beta gap) - (1 - s)).

    Args:
      gap_N: log [pi(chosen) / ref(chosen)] - log [pi(rejected) / ref(rejected)].
      beta: KL coefficient.
      label_smoothing: s, the probability that a preference label is wrong; 0 is DPO.

    Raises:
      ValueError: label_smoothing is outside of [0, 0.5).
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing {label_smoothing} is outside of [0, 0.5)")
    logits_N = beta * jnp.asarray(gap_N, jnp.float32)
    loss_N = -(1 - label_smoothing) * jax.nn.log_sigmoid(logits_N)
    if label_smoothing:
        loss_N -= label_smoothing * jax.nn.log_sigmoid(-logits_N)
    return loss_N


def reward_distance(
    implicit_gap_N: jax.Array,
    target_gap_N: jax.Array,
    distance: str = "backward_kl",
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
      ValueError: the distance is unknown.
    """
    x_N = jnp.asarray(implicit_gap_N, jnp.float32)
    y_N = jnp.asarray(target_gap_N, jnp.float32)
    if distance == "backward_kl":
        return _bernoulli_kl(y_N, x_N)
    if distance == "forward_kl":
        return _bernoulli_kl(x_N, y_N)
    if distance == "squared":
        return jnp.square(x_N - y_N)
    raise ValueError(f"distance {distance!r} is none of {', '.join(DISTANCES)}")


def _bernoulli_kl(x_N: jax.Array, y_N: jax.Array) -> jax.Array:
    """Computes KL(Bernoulli(sigmoid(x)) || Bernoulli(sigmoid(y))) stably."""
    log_sigmoid = jax.nn.log_sigmoid
    return jax.nn.sigmoid(x_N) * (log_sigmoid(x_N) - log_sigmoid(y_N)) + jax.nn.sigmoid(
        -x_N
    ) * (log_sigmoid(-x_N) - log_sigmoid(-y_N))

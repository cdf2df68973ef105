"""Preference optimisation: DPO, IPO and RPO, with the report's SFT term.

DPO only learns that one response is better, and pushes the two apart without end. RPO
learns by how much: the gap of implicit rewards approaches that of the rewards (340B
report, section 3.3). All log-probs are sums over the tokens of a response: the
report's coefficients mean nothing for means.
"""

import jax
import jax.numpy as jnp

from nemojax.losses.loss import Loss, select

DISTANCES = ("backward_kl", "forward_kl", "squared")
PREFERENCES = ("dpo", "ipo", "rpo")


def dpo(
    policy_chosen_N: jax.Array,
    policy_rejected_N: jax.Array,
    reference_chosen_N: jax.Array,
    reference_rejected_N: jax.Array,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    sft_weight: float = 0.0,
    preference_weight: float = 1.0,
    valid: jax.Array | None = None,
) -> Loss:
    """Direct preference optimisation (the report, section 3.3.1); see `logistic`.

    Args:
      policy_chosen_N, policy_rejected_N: log-probs of the responses, summed over
        tokens.
      reference_chosen_N, reference_rejected_N: the same of the reference policy.
      beta: KL coefficient; the report searches [3e-4, 3e-3].
      label_smoothing: probability that a label is wrong; more than 0 is "conservative"
        DPO.
      sft_weight: weight of -log pi(chosen), a sum over tokens; the report searches
        [1e-5, 1e-3].
      preference_weight: weight of the preference term.
      valid: [N], 0 for entries that are no pairs; by default all are.

    Raises:
      ValueError: if both weights are 0, or label_smoothing is outside of [0, 0.5).
    """
    pairs = _Pairs(
        policy_chosen_N,
        policy_rejected_N,
        reference_chosen_N,
        reference_rejected_N,
        valid,
    )
    loss_N = logistic(pairs.gap_N, beta=beta, label_smoothing=label_smoothing)
    return pairs.loss(loss_N, beta, sft_weight, preference_weight)


def ipo(
    policy_chosen_N: jax.Array,
    policy_rejected_N: jax.Array,
    reference_chosen_N: jax.Array,
    reference_rejected_N: jax.Array,
    *,
    beta: float,
    sft_weight: float = 0.0,
    preference_weight: float = 1.0,
    valid: jax.Array | None = None,
) -> Loss:
    """Identity preference optimisation (Azar et al. 2023), on sums of log-probs.

    Of a pair: (gap - 1 / (2 beta))^2. Arguments and errors as for `dpo`.
    """
    pairs = _Pairs(
        policy_chosen_N,
        policy_rejected_N,
        reference_chosen_N,
        reference_rejected_N,
        valid,
    )
    loss_N = jnp.square(pairs.gap_N - 1 / (2 * beta))
    return pairs.loss(loss_N, beta, sft_weight, preference_weight)


def rpo(
    policy_chosen_N: jax.Array,
    policy_rejected_N: jax.Array,
    reference_chosen_N: jax.Array,
    reference_rejected_N: jax.Array,
    chosen_reward_N: jax.Array,
    rejected_reward_N: jax.Array,
    *,
    beta: float,
    eta: float = 1.0,
    distance: str = "backward_kl",
    sft_weight: float = 0.0,
    preference_weight: float = 1.0,
    valid: jax.Array | None = None,
) -> Loss:
    """Reward-aware preference optimisation (the report, section 3.3.2).

    Args:
      policy_chosen_N, policy_rejected_N: log-probs of the responses, summed over
        tokens.
      reference_chosen_N, reference_rejected_N: the same of the reference policy.
      chosen_reward_N, rejected_reward_N: rewards of the responses. A pair whose
        chosen response has the lower one is legal.
      beta: KL coefficient; the report searches [1e-3, 1].
      eta: scale of the rewards; the report uses 1.
      distance: see `reward_distance`; "backward_kl" is the report's.
      sft_weight: weight of -log pi(chosen), a sum over tokens; the report uses 1e-5.
      preference_weight: weight of the RPO term.
      valid: [N], 0 for entries that are no pairs; by default all are.

    Raises:
      ValueError: if both weights are 0, or the distance is unknown.
    """
    pairs = _Pairs(
        policy_chosen_N,
        policy_rejected_N,
        reference_chosen_N,
        reference_rejected_N,
        valid,
    )
    target_gap_N = eta * (
        select(chosen_reward_N, valid) - select(rejected_reward_N, valid)
    )
    loss_N = reward_distance(beta * pairs.gap_N, target_gap_N, distance)
    loss = pairs.loss(loss_N, beta, sft_weight, preference_weight)
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
      ValueError: if label_smoothing is outside of [0, 0.5).
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
    raise ValueError(f"distance {distance!r} is none of {', '.join(DISTANCES)}")


def _bernoulli_kl(x_N: jax.Array, y_N: jax.Array) -> jax.Array:
    """KL(Bernoulli(sigmoid(x)) || Bernoulli(sigmoid(y))), safe for large logits."""
    log_sigmoid = jax.nn.log_sigmoid
    return jax.nn.sigmoid(x_N) * (log_sigmoid(x_N) - log_sigmoid(y_N)) + jax.nn.sigmoid(
        -x_N
    ) * (log_sigmoid(-x_N) - log_sigmoid(-y_N))


class _Pairs:
    """Log-probs of N pairs, float32, 0 where there is no pair."""

    def __init__(
        self,
        policy_chosen,
        policy_rejected,
        reference_chosen,
        reference_rejected,
        valid,
    ):
        self.chosen_N = select(policy_chosen, valid)
        self.rejected_N = select(policy_rejected, valid)
        self.chosen_ratio_N = self.chosen_N - select(reference_chosen, valid)
        self.rejected_ratio_N = self.rejected_N - select(reference_rejected, valid)
        self.valid_N = select(jnp.ones_like(self.chosen_N), valid)

    @property
    def gap_N(self) -> jax.Array:
        """The policy's log odds of chosen over rejected, relative to the reference."""
        return self.chosen_ratio_N - self.rejected_ratio_N

    def loss(
        self, loss_N, beta: float, sft_weight: float, preference_weight: float
    ) -> Loss:
        """preference_weight * loss - sft_weight * log pi(chosen), with metrics.

        The SFT term keeps the policy from losing its chosen responses, whose
        likelihood falls, too, while the gap grows.
        """
        if sft_weight == 0 and preference_weight == 0:
            raise ValueError(
                "sft_weight and preference_weight are both 0: no loss is left"
            )
        metrics = {
            "preference_loss": loss_N,
            "sft_loss": -self.chosen_N,
            "chosen_log_prob": self.chosen_N,
            "rejected_log_prob": self.rejected_N,
            # Without beta ...
            "chosen_log_ratio": self.chosen_ratio_N,
            "rejected_log_ratio": self.rejected_ratio_N,
            "log_ratio_gap": self.gap_N,
            # ... and with it.
            "implicit_reward_chosen": beta * self.chosen_ratio_N,
            "implicit_reward_rejected": beta * self.rejected_ratio_N,
            "implicit_reward_gap": beta * self.gap_N,
            # KL(reference || policy), as far as the reference writes such responses.
            "kl_estimate": -(self.chosen_ratio_N + self.rejected_ratio_N) / 2,
            # A tie is no success: a policy equal to its reference has accuracy 0.
            "accuracy": (self.gap_N > 0).astype(jnp.float32),
        }
        values_N = preference_weight * loss_N - sft_weight * self.chosen_N
        return Loss(values_N * self.valid_N, self.valid_N, metrics)

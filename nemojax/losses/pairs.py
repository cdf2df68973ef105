"""Arguments of preference losses, and the two terms that each is made of."""

from typing import Any, NamedTuple, TypedDict, TypeVar

import jax
import jax.numpy as jnp

from nemojax.losses.loss import Loss, select


class Responses(NamedTuple):
    """N responses; every array is [N].

    Attributes:
      log_probs: log-probs under the policy, summed over the trained tokens of a
        response. The loss mask decides which tokens those are: it may leave out
        format tokens, as Llama 3 does (section 4.1.4).
      reference: the same sums under the reference policy; None for losses without one.
      tokens: number of trained tokens.
      rewards: rewards of a reward model or of the ground truth.
    """

    log_probs: Any
    reference: Any = None
    tokens: Any = None
    rewards: Any = None

    @property
    def log_ratios(self) -> jax.Array:
        """Log-probs relative to the reference: log [pi(response) / ref(response)]."""
        return self.log_probs - self.reference

    @property
    def mean_log_probs(self) -> jax.Array:
        """Mean log-prob of a token; 0 for a response without trained tokens."""
        return self.log_probs / jnp.maximum(self.tokens, 1.0)

    @property
    def mean_log_ratios(self) -> jax.Array:
        """Mean log ratio of a token; 0 for a response without trained tokens."""
        return self.log_ratios / jnp.maximum(self.tokens, 1.0)


class Pairs(NamedTuple):
    """N pairs of responses to one prompt each: the argument of a preference loss.

    A loss uses what it needs; losses of this package name what is missing. Training
    fills in all fields, with 0 where the data say nothing.

    Attributes:
      chosen: the preferred responses.
      rejected: the other ones.
      margin: [N], by how much the chosen response is better.
      valid: [N], 0 for entries that are no pairs; by default all are.
    """

    chosen: Responses
    rejected: Responses
    margin: Any = None
    valid: Any = None


class Judged(NamedTuple):
    """N responses, each judged by itself: the argument of KTO.

    Attributes:
      responses: the responses.
      mismatched: the same or other responses behind prompts that they do not answer;
        they estimate how far the policy is from its reference.
      desirable: [N], 1 for good responses, 0 for bad ones.
      valid: [N], 0 for entries that are no responses; by default all are.
    """

    responses: Responses
    mismatched: Responses
    desirable: Any
    valid: Any = None


class Terms(TypedDict, total=False):
    """Weights of the two terms of every loss on pairs, as keyword arguments.

    Attributes:
      preference_weight: weight of the preference term, 1 by default.
      sft_weight: weight of -log pi(chosen), 0 by default.
      sft_average: whether -log pi(chosen) is a mean over tokens (Llama 3), or a sum
        (the 340B report), which is the default.
    """

    preference_weight: float
    sft_weight: float
    sft_average: bool


Examples = TypeVar("Examples", Pairs, Judged)


def prepared(examples: Examples, *needed: str) -> Examples:
    """Returns examples in float32, 0 where they are not valid, NaN or not.

    Args:
      examples: whose `valid` may be missing.
      needed: fields of `Responses` that the loss uses.

    Raises:
      ValueError: one of them is missing.
    """
    first, second = examples[:2]
    for name in needed:
        if getattr(first, name) is None or getattr(second, name) is None:
            raise ValueError(f"this loss needs {name!r} of all responses")
    valid = examples.valid
    count = jnp.ones_like(first.log_probs, jnp.float32)
    examples = examples._replace(valid=count)
    return jax.tree.map(lambda leaf: select(leaf, valid), examples)


def combined(
    pairs: Pairs,
    loss_N: jax.Array,
    chosen_reward_N: jax.Array,
    rejected_reward_N: jax.Array,
    *,
    preference_weight: float = 1.0,
    sft_weight: float = 0.0,
    sft_average: bool = False,
) -> Loss:
    """Returns preference_weight * loss - sft_weight * log pi(chosen), with metrics.

    The SFT term keeps the policy from losing its chosen responses, whose likelihood
    falls, too, while the gap grows.

    Args:
      pairs: pairs that `prepared` gave.
      loss_N: the preference loss of each pair.
      chosen_reward_N: implicit rewards, for the metrics.
      rejected_reward_N: implicit rewards, for the metrics.
      preference_weight: see `Terms`.
      sft_weight: see `Terms`.
      sft_average: see `Terms`.

    Raises:
      ValueError: both weights are 0, or a mean is asked for without token counts.
    """
    if sft_weight == 0 and preference_weight == 0:
        raise ValueError("sft_weight and preference_weight are both 0: no loss is left")
    if sft_average:
        prepared(pairs, "tokens")
    chosen, rejected, _, valid_N = pairs
    sft_N = -(chosen.mean_log_probs if sft_average else chosen.log_probs)
    metrics = {
        "preference_loss": loss_N,
        "sft_loss": sft_N,
        "chosen_log_prob": chosen.log_probs,
        "rejected_log_prob": rejected.log_probs,
    }
    if chosen.reference is not None:
        metrics |= {
            # Without beta ...
            "chosen_log_ratio": chosen.log_ratios,
            "rejected_log_ratio": rejected.log_ratios,
            "log_ratio_gap": chosen.log_ratios - rejected.log_ratios,
            # KL(reference || policy), as far as the reference writes such responses.
            "kl_estimate": -(chosen.log_ratios + rejected.log_ratios) / 2,
        }
    gap_N = chosen_reward_N - rejected_reward_N
    metrics |= {
        # ... and with it.
        "implicit_reward_chosen": chosen_reward_N,
        "implicit_reward_rejected": rejected_reward_N,
        "implicit_reward_gap": gap_N,
        # A tie is no success: a policy equal to its reference has accuracy 0.
        "accuracy": (gap_N > 0).astype(jnp.float32),
    }
    values_N = preference_weight * loss_N + sft_weight * sft_N
    return Loss(values_N * valid_N, valid_N, metrics)

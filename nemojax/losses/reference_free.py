"""Losses on pairs that need no reference policy: SimPO and ORPO.

Both compare mean log-probs of a token, so that a long response has no advantage, and
their implicit rewards are beta times these.
"""

from typing import Unpack

import jax
import jax.numpy as jnp

from nemojax.losses.loss import Loss
from nemojax.losses.pairs import Pairs, Terms, combined, prepared
from nemojax.losses.preference import logistic

# The largest mean log-prob below 0 whose complement float32 can tell from 0.
_ALMOST_CERTAIN = -float(jnp.finfo(jnp.float32).eps)


def simpo(
    pairs: Pairs,
    *,
    beta: float,
    gamma: float,
    label_smoothing: float = 0.0,
    **terms: Unpack[Terms],
) -> Loss:
    """Computes simple preference optimisation (Meng et al. 2024, equation 6).

    -log sigmoid(beta (mean log pi(chosen) - mean log pi(rejected)) - gamma).

    Args:
      pairs: log-probs and tokens are used.
      beta: scale of the mean log-probs; the paper uses 2 to 10.
      gamma: margin by which the chosen reward is to win; the paper's gamma / beta is
        0.1 to 0.8.
      label_smoothing: probability that a label is wrong.
      **terms: see `Terms`.

    Raises:
      ValueError: as `losses.dpo`.
    """
    pairs = prepared(pairs, "tokens")
    chosen_N, rejected_N = pairs.chosen.mean_log_probs, pairs.rejected.mean_log_probs
    gap_N = chosen_N - rejected_N - gamma / beta
    loss_N = logistic(gap_N, beta=beta, label_smoothing=label_smoothing)
    return combined(pairs, loss_N, beta * chosen_N, beta * rejected_N, **terms)


def orpo(
    pairs: Pairs,
    *,
    beta: float,
    sft_weight: float = 1.0,
    sft_average: bool = True,
    preference_weight: float = 1.0,
) -> Loss:
    """Computes odds ratio preference optimisation (Hong et al. 2024, eq. 6 and 7).

    -mean log pi(chosen) - beta log sigmoid(log odds(chosen) - log odds(rejected)), the
    odds p / (1 - p) being those of p = exp(mean log pi).

    Args:
      pairs: log-probs and tokens are used.
      beta: weight of the odds ratio, the paper's lambda: 0.1 to 0.25.
      sft_weight: see `Terms`; the defaults of all three are the paper's.
      sft_average: see `Terms`.
      preference_weight: see `Terms`.

    Raises:
      ValueError: as `losses.dpo`.
    """
    pairs = prepared(pairs, "tokens")
    chosen_N, rejected_N = pairs.chosen.mean_log_probs, pairs.rejected.mean_log_probs
    loss_N = -beta * jax.nn.log_sigmoid(_log_odds(chosen_N) - _log_odds(rejected_N))
    return combined(
        pairs, loss_N, beta * chosen_N, beta * rejected_N,
        sft_weight=sft_weight, sft_average=sft_average,
        preference_weight=preference_weight,
    )  # fmt: skip


def _log_odds(log_probs_N: jax.Array) -> jax.Array:
    """Returns the log odds of probabilities, finite even where these are 1."""
    log_probs_N = jnp.minimum(log_probs_N, _ALMOST_CERTAIN)
    return log_probs_N - jnp.log(-jnp.expm1(log_probs_N))

"""Losses of pretraining, reward modelling and preference optimisation.

Pure functions on arrays: log-probs or predictions in, a `Loss` with a value for each
example out, computed in float32. None knows a model.

    losses.reduce(losses.dpo(policy_chosen, policy_rejected,
                             reference_chosen, reference_rejected, beta=0.1))

gives sum, weight and metrics, which a train step adds up and divides once.
"""

from nemojax.losses.likelihood import language_model, sequence_log_probs
from nemojax.losses.loss import Loss, Metrics, reduce
from nemojax.losses.preference import DISTANCES, PREFERENCES, dpo, ipo, rpo
from nemojax.losses.rejection import select_best
from nemojax.losses.reward import (
    ATTRIBUTE_WEIGHTS,
    PAIRWISE,
    aggregate,
    attribute_regression,
    bradley_terry,
)

__all__ = [
    "ATTRIBUTE_WEIGHTS",
    "DISTANCES",
    "PAIRWISE",
    "PREFERENCES",
    "Loss",
    "Metrics",
    "aggregate",
    "attribute_regression",
    "bradley_terry",
    "dpo",
    "ipo",
    "language_model",
    "reduce",
    "rpo",
    "select_best",
    "sequence_log_probs",
]

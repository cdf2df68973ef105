"""Objectives: a forward primitive and a loss, bound to a model and a layout.

`token_log_probs` and `rewards` carry all of training; what differs between
pretraining, SFT, reward modelling and preference optimisation is the arithmetic on
them.
"""

from nemojax.training.objectives.language_model import (
    language_model_objective,
    sequence_log_probs,
)
from nemojax.training.objectives.preference import (
    KTOBatch,
    PreferenceBatch,
    PreferenceConfig,
    PreferenceLoss,
    kto_objective,
    needs_reference,
    preference_objective,
)
from nemojax.training.objectives.reward import (
    BradleyTerryBatch,
    RewardBatch,
    bradley_terry_objective,
    reward_objective,
    reward_predictions,
)

__all__ = [
    "BradleyTerryBatch",
    "KTOBatch",
    "PreferenceBatch",
    "PreferenceConfig",
    "PreferenceLoss",
    "RewardBatch",
    "bradley_terry_objective",
    "kto_objective",
    "language_model_objective",
    "needs_reference",
    "preference_objective",
    "reward_objective",
    "reward_predictions",
    "sequence_log_probs",
]

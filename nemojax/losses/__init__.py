"""Losses of pretraining, reward modelling and preference optimisation.

Pure functions on arrays: log-probs or predictions in, a `Loss` with a value for each
example out, computed in float32. None knows a model. A loss on pairs of responses takes
`Pairs`, and any function of these that returns a `Loss` can be trained with:

    pairs = losses.Pairs(
        chosen=losses.Responses(log_probs=..., reference=...),
        rejected=losses.Responses(log_probs=..., reference=...),
    )
    losses.reduce(losses.dpo(pairs, beta=0.1))

gives sum, weight and metrics, which a train step adds up and divides once.
"""

from nemojax.losses.kto import kto
from nemojax.losses.likelihood import (
    language_model,
    sequence_log_probs,
    sequence_targets,
)
from nemojax.losses.loss import Loss, Metrics, reduce
from nemojax.losses.pairs import Judged, Pairs, Responses
from nemojax.losses.preference import (
    DISTANCES,
    apo_down,
    apo_zero,
    dpo,
    dpo_norm,
    ipo,
    rpo,
)
from nemojax.losses.reference_free import orpo, simpo
from nemojax.losses.reward import (
    ATTRIBUTE_WEIGHTS,
    PAIRWISE,
    aggregate,
    attribute_regression,
    bradley_terry,
)

# Losses on pairs by name, and those of them that need no reference.
PREFERENCES = {
    loss.__name__: loss
    for loss in (dpo, ipo, rpo, simpo, orpo, apo_zero, apo_down, dpo_norm)
}
REFERENCE_FREE = ("simpo", "orpo")

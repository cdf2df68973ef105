"""Preference optimisation: any loss on pairs, and KTO on single responses."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nemojax import losses
from nemojax.data.batching.batches import Batch
from nemojax.errors import UserError
from nemojax.losses import Judged, Loss, Pairs, Responses
from nemojax.losses.loss import select
from nemojax.losses.pairs import Terms, prepared
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout
from nemojax.training.objectives.language_model import sequence_log_probs
from nemojax.training.step import Objective


class PreferenceBatch(NamedTuple):
    """Packed pairs: even sequences are chosen, odd ones rejected.

    Attributes:
      text: the packed sequences.
      sequence_ids: int32 [B, S], the sequence of each token; 2 N is padding.
      reference: float32 [2 N], log-probs of the sequences under the reference policy;
        not looked at by a loss that needs none.
      rewards: float32 [2 N], the reward of each response (RPO).
      margin: float32 [N], by how much the chosen response is better.
      valid: float32 [N], 0 where there is no pair.
    """

    text: Batch
    sequence_ids: Any
    reference: Any
    rewards: Any
    margin: Any
    valid: Any


class KTOBatch(NamedTuple):
    """Packed responses: even sequences are these, odd ones the mismatched.

    Attributes:
      text: the packed sequences.
      sequence_ids: int32 [B, S], the sequence of each token; 2 N is padding.
      reference: float32 [2 N], log-probs of the sequences under the reference policy.
      desirable: float32 [N], 1 for good responses, 0 for bad ones.
      valid: float32 [N], 0 where there is no response.
    """

    text: Batch
    sequence_ids: Any
    reference: Any
    desirable: Any
    valid: Any


@dataclasses.dataclass(frozen=True)
class PreferenceConfig:
    """A loss on pairs by its name and its options, which can be called as one.

    Attributes:
      loss: one of `losses.PREFERENCES`.
      beta: KL coefficient, or what takes its place: see the loss.
      eta: scale of the reward gap (RPO).
      gamma: margin by which the chosen reward is to win (SimPO).
      sft_weight: weight of the chosen response's negative log-likelihood.
      sft_average: whether that is a mean over the response's tokens, or a sum.
      preference_weight: weight of the preference loss; 0 leaves rejection-sampling
        fine-tuning on the chosen responses.
      distance: distance of the reward gaps (RPO), see
        `losses.preference.reward_distance`.
      label_smoothing: probability that a label is wrong (DPO, SimPO).

    Raises:
      UserError: no loss can be made of it, or the loss has no such option.
    """

    loss: str
    beta: float
    eta: float = 1.0
    gamma: float = 0.0
    sft_weight: float = 0.0
    sft_average: bool = False
    preference_weight: float = 1.0
    distance: str = "backward_kl"
    label_smoothing: float = 0.0

    def __post_init__(self):
        for name, value, known in (
            ("loss", self.loss, losses.PREFERENCES),
            ("distance", self.distance, losses.DISTANCES),
        ):
            if value not in known:
                raise UserError(f"{name} {value!r} is none of {', '.join(known)}")
        if self.sft_weight == 0 and self.preference_weight == 0:
            raise UserError("sft_weight and preference_weight are both 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(
                f"label_smoothing={self.label_smoothing} is outside of [0, 0.5)"
            )
        if self.beta <= 0:
            raise UserError(f"beta={self.beta} must be positive")
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if field.name not in self._options() and value != field.default:
                raise UserError(f"{field.name}={value}: {self.loss} has no such option")

    @property
    def needs_reference(self) -> bool:
        """True where the loss looks at log-probs of a reference policy."""
        return self.loss not in losses.REFERENCE_FREE

    def __call__(self, pairs: Pairs) -> Loss:
        """Computes the loss of pairs."""
        return losses.PREFERENCES[self.loss](pairs, **self._options())

    def _options(self) -> dict[str, Any]:
        parameters = inspect.signature(losses.PREFERENCES[self.loss]).parameters
        values = dataclasses.asdict(self)
        taken = parameters.keys() | Terms.__annotations__
        return {name: value for name, value in values.items() if name in taken}


PreferenceLoss = Callable[[Pairs], Loss | jax.Array]


def needs_reference(loss: PreferenceLoss) -> bool:
    """Returns whether a loss looks at the reference: by default it does."""
    return getattr(loss, "needs_reference", True)


def preference_objective(
    config: ModelConfig, loss: PreferenceLoss, layout: Layout | None = None
) -> Objective:
    """Makes any loss on pairs an objective on a `PreferenceBatch`.

    The loss is given float32 arrays, in which all is 0 where there is no pair but the
    token counts, which are at least 1; its values there are left out.

    Args:
      config: sizes of the model.
      loss: a `PreferenceConfig`, or any function of `losses.Pairs` that returns a
        value for each pair, [N], alone or in a `losses.Loss`. One without reference
        has `needs_reference = False` and gets None for it.
      layout: layout on the mesh.

    Raises:
      UserError: when traced, if the loss returns anything else.
    """

    def objective(params, batch: PreferenceBatch):
        sides = _responses(config, params, batch, layout, batch.rewards)
        chosen, rejected, margin, valid = prepared(
            Pairs(*sides, batch.margin, batch.valid)
        )
        metrics = {
            "chosen_log_prob": chosen.log_probs,
            "rejected_log_prob": rejected.log_probs,
            "chosen_tokens": chosen.tokens,
            "rejected_tokens": rejected.tokens,
        }
        chosen, rejected = _for(loss, chosen), _for(loss, rejected)
        found = loss(Pairs(chosen, rejected, margin, valid))
        if not isinstance(found, Loss):
            found = Loss(found, valid, {})
        if getattr(found.values, "shape", None) != valid.shape:
            kind = getattr(found.values, "shape", type(found.values).__name__)
            raise UserError(
                "a preference loss returns a value for each pair, float32 "
                f"{list(valid.shape)}, alone or in a losses.Loss; this one returns "
                f"{list(kind) if isinstance(kind, tuple) else kind}"
            )
        found = found._replace(metrics=metrics | found.metrics)
        return losses.reduce(jax.tree.map(lambda leaf: select(leaf, valid), found))

    return objective


def _for(loss: PreferenceLoss, responses: Responses) -> Responses:
    """Returns responses as a loss is given them: means over tokens can be taken."""
    return responses._replace(
        reference=responses.reference if needs_reference(loss) else None,
        tokens=jnp.maximum(responses.tokens, 1.0),
    )


def kto_objective(
    config: ModelConfig,
    layout: Layout | None = None,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Objective:
    """Makes Kahneman-Tversky optimisation, on a `KTOBatch`; see `losses.kto`.

    Its baseline is that of the batch: micro-batches would each have their own.
    """

    def objective(params, batch: KTOBatch):
        sides = _responses(config, params, batch, layout)
        loss = losses.kto(
            Judged(*sides, batch.desirable, batch.valid),
            beta=beta,
            desirable_weight=desirable_weight,
            undesirable_weight=undesirable_weight,
        )
        return losses.reduce(loss)

    return objective


def _responses(
    config: ModelConfig,
    params,
    batch: PreferenceBatch | KTOBatch,
    layout: Layout | None,
    rewards: jax.Array | None = None,
) -> tuple[Responses, Responses]:
    """Returns the even and the odd sequences of a batch."""
    count = len(batch.reference)
    log_probs = sequence_log_probs(
        config, params, batch.text, batch.sequence_ids, count, layout
    )
    mask = jnp.asarray(batch.text.loss_mask)
    tokens = losses.sequence_targets(mask, batch.sequence_ids, count)
    both = Responses(log_probs, batch.reference, tokens, rewards)
    even = jax.tree.map(lambda leaf: leaf[0::2], both)
    return even, jax.tree.map(lambda leaf: leaf[1::2], both)

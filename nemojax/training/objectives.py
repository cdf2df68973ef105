"""Objectives: a forward primitive and a loss, bound to a model and a layout.

`token_log_probs` and `rewards` carry all of training; what differs between
pretraining, SFT, reward modelling, DPO and RPO is the arithmetic on them.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nemojax import losses
from nemojax.data.batching.batches import Batch
from nemojax.errors import UserError
from nemojax.losses.likelihood import sequence_targets
from nemojax.models import forward
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout
from nemojax.training.step import Objective


class RewardBatch(NamedTuple):
    """Packed responses with labels.

    Attributes:
      text: the packed sequences.
      last_token: int32 [N], flat index of each sequence's end token.
      labels: float32 [N, K]; -100 where nothing is labelled (and where no sequence is).
    """

    text: Batch
    last_token: Any
    labels: Any


class PreferenceBatch(NamedTuple):
    """Packed pairs: even sequences are chosen, odd ones rejected.

    Attributes:
      text: the packed sequences.
      sequence_ids: int32 [B, S]; N is padding.
      reference: float32 [N], log-probs of the sequences under the reference policy.
      rewards: float32 [N], the reward of each response (RPO).
      valid: float32 [N / 2], 0 where there is no pair.
    """

    text: Batch
    sequence_ids: Any
    reference: Any
    rewards: Any
    valid: Any


@dataclasses.dataclass(frozen=True)
class PreferenceConfig:
    """What makes a preference stage (340B report, section 3.3).

    Attributes:
      loss: "dpo", "ipo" or "rpo".
      beta: KL coefficient.
      eta: scale of the reward gap (RPO).
      sft_weight: weight of the chosen response's negative log-likelihood sum.
      preference_weight: weight of the preference loss; 0 leaves rejection-sampling
        fine-tuning on the chosen responses.
      distance: between the reward gaps (RPO): "backward_kl", "forward_kl", "squared".
      label_smoothing: probability that a label is wrong (DPO).
    """

    loss: str
    beta: float
    eta: float = 1.0
    sft_weight: float = 0.0
    preference_weight: float = 1.0
    distance: str = "backward_kl"
    label_smoothing: float = 0.0

    def check(self) -> None:
        """Raises ValueError for what no loss can be made of; does not start jax."""
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

    def __call__(self, *arguments: jax.Array, valid: jax.Array | None) -> losses.Loss:
        """The loss of pairs; see `losses.rpo` for the arguments, rewards included."""
        options = {
            "beta": self.beta,
            "sft_weight": self.sft_weight,
            "preference_weight": self.preference_weight,
            "valid": valid,
        }
        if self.loss == "rpo":
            options |= {"eta": self.eta, "distance": self.distance}
            return losses.rpo(*arguments, **options)
        if self.loss == "ipo":
            return losses.ipo(*arguments[:4], **options)
        return losses.dpo(
            *arguments[:4], label_smoothing=self.label_smoothing, **options
        )


def language_model_objective(
    config: ModelConfig, layout: Layout | None = None
) -> Objective:
    """Token cross-entropy: pretraining and SFT, on a `Batch`."""

    def objective(params, batch: Batch):
        mask = jnp.asarray(batch.loss_mask, jnp.float32)
        # Each log-prob counts -mask, whatever it is: 1F1B needs no pass to know that.
        loss_sum, log_probs = forward.weighted_log_probs(
            config, params, batch.tokens, -mask,
            positions=batch.positions, segment_ids=batch.segment_ids, layout=layout,
        )  # fmt: skip
        _, weight, metrics = losses.reduce(losses.language_model(log_probs, mask))
        return loss_sum, weight, metrics

    return objective


def reward_objective(config: ModelConfig, layout: Layout | None = None) -> Objective:
    """Masked mean squared error on attributes, on a `RewardBatch`."""

    def objective(params, batch: RewardBatch):
        predictions = reward_predictions(
            config, params, batch.text, batch.last_token, layout
        )
        return losses.reduce(losses.attribute_regression(predictions, batch.labels))

    return objective


def bradley_terry_objective(
    config: ModelConfig, layout: Layout | None = None, pairwise: str = "plain"
) -> Objective:
    """Bradley-Terry on attribute 0, on a `RewardBatch` of pairs.

    Even sequences are chosen, odd ones rejected; `labels` holds the margin for the
    chosen response of a pair, 1 for the rejected one, and -100 where there is none.

    Raises:
      UserError: `pairwise` is none of `losses.PAIRWISE`.
    """
    if pairwise not in losses.PAIRWISE:
        known = ", ".join(losses.PAIRWISE)
        raise UserError(f"pairwise {pairwise!r} is none of {known}")

    def objective(params, batch: RewardBatch):
        rewards = reward_predictions(
            config, _unshifted(params), batch.text, batch.last_token, layout
        )[:, 0]
        margin, valid = batch.labels[0::2, 0], batch.labels[1::2, 0] > 0
        loss = losses.bradley_terry(
            rewards[0::2],
            rewards[1::2],
            margin=margin if pairwise == "margin" else None,
            scale=margin if pairwise == "scaled" else None,
            valid=valid,
        )
        return losses.reduce(loss)

    return objective


def _unshifted(params):
    """Parameters of which those that shift all rewards alike are not trained.

    Pairs say nothing of them: their gradient is 0 but for rounding, which Adam would
    make steps of.
    """
    stopped = {
        module: {
            name: jax.lax.stop_gradient(leaf) if name == "bias" else leaf
            for name, leaf in params[module].items()
        }
        for module in ("final_norm", "reward_head")
    }
    return {**params, **stopped}


def preference_objective(
    config: ModelConfig,
    preference: PreferenceConfig,
    layout: Layout | None = None,
) -> Objective:
    """DPO, IPO or RPO with the SFT term, on a `PreferenceBatch`.

    Raises:
      UserError: see `PreferenceConfig.check`.
    """
    preference.check()

    def objective(params, batch: PreferenceBatch):
        count = len(batch.reference)
        policy = sequence_log_probs(
            config, params, batch.text, batch.sequence_ids, count, layout
        )
        mask = jnp.asarray(batch.text.loss_mask)
        tokens = sequence_targets(mask, batch.sequence_ids, count)
        both = (policy, batch.reference, batch.rewards)
        sides = [part[side::2] for part in both for side in (0, 1)]
        loss = preference(*sides, valid=batch.valid)
        sizes = {"chosen_tokens": tokens[0::2], "rejected_tokens": tokens[1::2]}
        return losses.reduce(loss._replace(metrics=loss.metrics | sizes))

    return objective


def reward_predictions(
    config: ModelConfig, params, text: Batch, last_token, layout=None
) -> jax.Array:
    """Attributes [N, K] of the packed sequences."""
    values = forward.rewards(
        config,
        params,
        text.tokens,
        positions=text.positions,
        segment_ids=text.segment_ids,
        layout=layout,
    )
    return forward.pick(values, last_token)


def sequence_log_probs(
    config: ModelConfig, params, text: Batch, sequence_ids, count: int, layout=None
) -> jax.Array:  # fmt: skip
    """Sums [N] of the packed sequences' masked token log-probs."""
    log_probs = _log_probs(config, params, text, layout)
    mask = jnp.asarray(text.loss_mask)
    return losses.sequence_log_probs(log_probs, mask, sequence_ids, count)


def _log_probs(config, params, text: Batch, layout) -> jax.Array:
    return forward.token_log_probs(
        config,
        params,
        text.tokens,
        positions=text.positions,
        segment_ids=text.segment_ids,
        layout=layout,
    )

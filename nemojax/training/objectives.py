"""Objectives: a forward primitive and a loss, bound to a model and a layout.

`token_log_probs` and `rewards` carry all of training; what differs between
pretraining, SFT, reward modelling, DPO and RPO is the arithmetic on them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nemojax.data.batches import Batch
from nemojax.losses import (
    attribute_regression,
    bradley_terry,
    dpo,
    language_model,
    rpo,
    sequences,
)
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


class PreferenceConfig(NamedTuple):
    """What makes a preference stage (340B report, section 3.3).

    Attributes:
      loss: "dpo" or "rpo".
      beta: KL coefficient.
      eta: scale of the reward gap (RPO).
      sft_weight: weight of the chosen response's negative log-likelihood sum.
      preference_weight: weight of the preference loss; 0 leaves rejection-sampling
        fine-tuning on the chosen responses.
    """

    loss: str
    beta: float
    eta: float = 1.0
    sft_weight: float = 0.0
    preference_weight: float = 1.0


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
        _, weight, metrics = language_model.loss(log_probs, mask)
        return loss_sum, weight, metrics

    return objective


def reward_objective(config: ModelConfig, layout: Layout | None = None) -> Objective:
    """Masked mean squared error on attributes, on a `RewardBatch`."""

    def objective(params, batch: RewardBatch):
        predictions = reward_predictions(
            config, params, batch.text, batch.last_token, layout
        )
        return attribute_regression.loss(predictions, batch.labels)

    return objective


def bradley_terry_objective(
    config: ModelConfig, layout: Layout | None = None
) -> Objective:
    """Bradley-Terry on attribute 0, on a `RewardBatch` of pairs.

    Even sequences are chosen, odd ones rejected; `labels` holds 1 for both responses
    of a pair and -100 where there is none.
    """

    def objective(params, batch: RewardBatch):
        rewards = reward_predictions(
            config, params, batch.text, batch.last_token, layout
        )[:, 0]
        valid = batch.labels[0::2, 0] > 0
        return bradley_terry.loss(rewards[0::2], rewards[1::2], valid=valid)

    return objective


def preference_objective(
    config: ModelConfig,
    preference: PreferenceConfig,
    layout: Layout | None = None,
) -> Objective:
    """DPO or RPO with the SFT term, on a `PreferenceBatch`.

    Raises:
      ValueError: an unknown loss.
    """
    if preference.loss not in ("dpo", "rpo"):
        raise ValueError(f"unknown preference loss {preference.loss!r}; dpo or rpo")

    def objective(params, batch: PreferenceBatch):
        policy = sequence_log_probs(
            config, params, batch.text, batch.sequence_ids, len(batch.reference),
            layout,
        )  # fmt: skip
        reference, rewards = batch.reference, batch.rewards
        arguments = (policy[0::2], policy[1::2], reference[0::2], reference[1::2])
        options = {
            "beta": preference.beta,
            "sft_weight": preference.sft_weight,
            "preference_weight": preference.preference_weight,
            "valid": batch.valid,
        }
        if preference.loss == "dpo":
            return dpo.loss(*arguments, **options)
        return rpo.loss(
            *arguments, rewards[0::2], rewards[1::2], eta=preference.eta, **options
        )

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
    return sequences.sequence_log_probs(log_probs, mask, sequence_ids, count)


def _log_probs(config, params, text: Batch, layout) -> jax.Array:
    return forward.token_log_probs(
        config,
        params,
        text.tokens,
        positions=text.positions,
        segment_ids=text.segment_ids,
        layout=layout,
    )

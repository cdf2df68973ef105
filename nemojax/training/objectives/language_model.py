"""Pretraining and supervised fine-tuning, and the log-probs of sequences."""

import jax
import jax.numpy as jnp

from nemojax import losses
from nemojax.data.batching.batches import Batch
from nemojax.models import forward
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout
from nemojax.training.step import Objective


def language_model_objective(
    config: ModelConfig, layout: Layout | None = None
) -> Objective:
    """Makes token cross-entropy on a `Batch`, for pretraining and SFT."""

    def objective(params, batch: Batch):
        mask = jnp.asarray(batch.loss_mask, jnp.float32)
        # Each log-prob counts -mask, whatever it is: 1F1B needs no pass to know that.
        loss_sum, log_probs = forward.weighted_log_probs(
            config, params, batch.tokens, -mask,
            positions=batch.positions, segment_ids=batch.segment_ids,
            target_indices=batch.target_indices, layout=layout,
        )  # fmt: skip
        _, weight, metrics = losses.reduce(losses.language_model(log_probs, mask))
        return loss_sum, weight, metrics

    return objective


def sequence_log_probs(
    config: ModelConfig,
    params,
    text: Batch,
    sequence_ids,
    count: int,
    layout: Layout | None = None,
) -> jax.Array:
    """Returns float32 [count]: each packed sequence's sum of masked token log-probs."""
    log_probs = forward.token_log_probs(
        config,
        params,
        text.tokens,
        positions=text.positions,
        segment_ids=text.segment_ids,
        target_indices=text.target_indices,
        layout=layout,
    )
    mask = jnp.asarray(text.loss_mask)
    return losses.sequence_log_probs(log_probs, mask, sequence_ids, count)

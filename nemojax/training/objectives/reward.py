"""Reward models: regression on labelled attributes, and Bradley-Terry on pairs."""

from typing import Any, NamedTuple

import jax

from nemojax import losses
from nemojax.data.batching.batches import Batch
from nemojax.errors import UserError
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


class BradleyTerryBatch(NamedTuple):
    """Packed pairs: even sequences are chosen, odd ones rejected.

    Attributes:
      text: the packed sequences.
      last_token: int32 [2 N], flat index of each sequence's end token.
      margin: float32 [N], by how much the chosen response is better.
      valid: float32 [N], 0 where there is no pair.
    """

    text: Batch
    last_token: Any
    margin: Any
    valid: Any


def reward_objective(config: ModelConfig, layout: Layout | None = None) -> Objective:
    """Makes masked mean squared error on attributes, on a `RewardBatch`."""

    def objective(params, batch: RewardBatch):
        predictions = reward_predictions(
            config, params, batch.text, batch.last_token, layout
        )
        return losses.reduce(losses.attribute_regression(predictions, batch.labels))

    return objective


def bradley_terry_objective(
    config: ModelConfig, layout: Layout | None = None, pairwise: str = "plain"
) -> Objective:
    """Makes Bradley-Terry on attribute 0, on a `BradleyTerryBatch`.

    Args:
      config: sizes of the model.
      layout: layout on the mesh.
      pairwise: use of the margin, one of `losses.PAIRWISE`.

    Raises:
      UserError: `pairwise` is none of these.
    """
    if pairwise not in losses.PAIRWISE:
        known = ", ".join(losses.PAIRWISE)
        raise UserError(f"pairwise {pairwise!r} is none of {known}")

    def objective(params, batch: BradleyTerryBatch):
        rewards = reward_predictions(
            config, _unshifted(params), batch.text, batch.last_token, layout
        )[:, 0]
        loss = losses.bradley_terry(
            rewards[0::2],
            rewards[1::2],
            margin=batch.margin if pairwise == "margin" else None,
            scale=batch.margin if pairwise == "scaled" else None,
            valid=batch.valid,
        )
        return losses.reduce(loss)

    return objective


def _unshifted(params):
    """Returns parameters of which those that shift all rewards alike are not trained.

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


def reward_predictions(
    config: ModelConfig, params, text: Batch, last_token, layout: Layout | None = None
) -> jax.Array:
    """Returns the attributes [N, K] of the packed sequences."""
    values = forward.rewards(
        config,
        params,
        text.tokens,
        positions=text.positions,
        segment_ids=text.segment_ids,
        layout=layout,
    )
    return forward.pick(values, last_token)

"""The compiled step of a stage: what training runs and what the planner compiles."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from nemojax.data.batching.batches import Batch
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout
from nemojax.training import objectives, placement, step
from nemojax.training.optimizer import OptimizerConfig, make_optimizer
from nemojax.training.step import Passes, TrainState


@functools.lru_cache(maxsize=8)
def language_model_step(
    config: ModelConfig, adam: OptimizerConfig, layout: Layout
) -> Callable[..., Any]:
    """Returns the train step of pretraining, for batches of one size.

    Args:
      config: of the model.
      adam: of the optimizer.
      layout: with the micro-batches of a pass, see `LayoutSpec.split`.
    """
    objective = objectives.language_model_objective(config, layout)
    return step.make_train_step(objective, make_optimizer(adam))


def in_passes(batch: Batch, passes: int) -> Batch | Passes:
    """Splits a batch [B, S] into passes [passes, B / passes, S]; one: as it is."""
    if passes == 1:
        return batch
    return Passes(
        jax.tree.map(lambda leaf: leaf.reshape(passes, -1, *leaf.shape[1:]), batch)
    )


def lower(
    train_step: Any, adam: OptimizerConfig, params: Any, batch: Any, layout: Layout
) -> jax.stages.Lowered:
    """Lowers a train step for a mesh whose devices need not be there.

    Args:
      train_step: as `step.make_train_step` gives it.
      adam: of the optimizer.
      params: shapes of what is trained, as the layout packs it.
      batch: shapes of a batch.
      layout: of the step.
    """
    optimizer = make_optimizer(adam)

    def initial(params):
        return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))

    state = jax.eval_shape(initial, params)
    state = _placed(state, placement.state_shardings(state, layout))
    batch = _placed(batch, placement.batch_shardings(batch, layout))
    return train_step.lower(state, batch, jax.ShapeDtypeStruct((), np.float32))


def _placed(shapes: Any, shardings: Any) -> Any:
    def one(shape: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return jax.tree.map(one, shapes, shardings)

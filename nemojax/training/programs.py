"""The compiled step of a stage: what training runs and what the planner compiles."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from nemojax.data.batching.batches import Batch
from nemojax.models import lora, partition
from nemojax.models.config import ModelConfig
from nemojax.models.lora import LoraConfig
from nemojax.parallel.layout import Layout
from nemojax.training import placement, step
from nemojax.training.optimizer import OptimizerConfig, make_optimizer
from nemojax.training.step import Objective, Passes, TrainState


@dataclasses.dataclass(frozen=True)
class ByLayout:
    """An objective for any layout; equal ones share a compiled step.

    Attributes:
      make: One of `objectives`, which takes `config`, `layout` and options.
      config: Sizes of the model.
      options: Names and values of the options; hashable.
    """

    make: Callable[..., Objective]
    config: ModelConfig
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, layout: Layout) -> Objective:
        """Makes the objective on a layout."""
        return self.make(self.config, layout=layout, **dict(self.options))


@functools.lru_cache(maxsize=16)
def train_step(
    objective: Callable[[Layout], Objective],
    adam: OptimizerConfig,
    layout: Layout,
    adapters: LoraConfig | None = None,
) -> Callable[..., Any]:
    """Makes the train step of a stage, for batches of one size.

    Args:
      objective: (layout) -> the objective, such as a `ByLayout`.
      adam: constants of the optimizer.
      layout: layout with the micro-batches of a pass, see `LayoutSpec.of_pass`.
      adapters: adapters that are trained instead of the model.
    """
    return step.make_train_step(
        objective(layout), make_optimizer(adam), combine=combine(adapters)
    )


def combine(adapters: LoraConfig | None) -> Callable[[Any, Any], Any] | None:
    """Makes the function (trained, frozen) -> parameters; None without adapters."""
    if adapters is None:
        return None
    return lambda trained, base: lora.attach(base, trained, adapters.scale)


def pass_rows(batch: Any) -> int:
    """Returns the rows of a batch, whose first array is its tokens, in each pass."""
    return np.shape(jax.tree.leaves(batch)[0])[-2]


def in_passes(batch: Batch, passes: int) -> Batch | Passes:
    """Splits a batch [B, S] into passes [passes, B / passes, S]; one: as it is."""
    if passes == 1:
        return batch
    return Passes(
        jax.tree.map(lambda leaf: leaf.reshape(passes, -1, *leaf.shape[1:]), batch)
    )


def as_passes(parts: Sequence[Any]) -> Any:
    """Makes the batch of passes of one shape (trees of arrays); one: as it is."""
    if len(parts) == 1:
        return parts[0]
    return Passes(jax.tree.map(lambda *leaves: np.stack(leaves), *parts))


def lower(
    train_step: Any,
    adam: OptimizerConfig,
    params: Any,
    batch: Any,
    layout: Layout,
    frozen: Any = None,
) -> jax.stages.Lowered:
    """Lowers a train step for a mesh whose devices need not be there.

    Args:
      train_step: step that `step.make_train_step` gave.
      adam: constants of the optimizer.
      params: shapes of what is trained, as the layout packs it.
      batch: shapes of a batch.
      layout: layout of the step.
      frozen: shapes of the model, where adapters are trained.
    """
    optimizer = make_optimizer(adam)

    def initial(params):
        return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))

    state = jax.eval_shape(initial, params)
    state = placed(state, placement.state_shardings(state, layout))
    batch = placed(batch, placement.batch_shardings(batch, layout))
    frozen = None if frozen is None else on_mesh(frozen, layout)
    rate = jax.ShapeDtypeStruct((), np.float32)
    return train_step.lower(state, batch, rate, frozen)


def on_mesh(params: Any, layout: Layout) -> Any:
    """Returns the shapes of parameters with their places."""
    return placed(params, partition.param_shardings(params, layout))


def placed(shapes: Any, shardings: Any) -> Any:
    """Returns shapes that say where their arrays are."""

    def one(shape: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return jax.tree.map(one, shapes, shardings)

"""Placement of the parts of a training run on the mesh, and their form.

Batches go in and parameters come out in the plain shape, which checkpoints have too;
while steps are taken they may be packed.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from nemojax.models import partition, stages
from nemojax.models.config import ModelConfig
from nemojax.parallel import mesh
from nemojax.parallel.layout import Layout
from nemojax.training.step import Passes, TrainState


def place_batch(batch: Any, layout: Layout) -> Any:
    """Puts a batch (a tree of host arrays) where `batch_shardings` says."""
    return put(batch, batch_shardings(batch, layout))


def batch_shardings(batch: Any, layout: Layout) -> Any:
    """Returns the shardings of a batch (arrays or shapes), `step.Passes` included.

    Rows are split over `data` and `pipe` where they divide; all else is on every
    device.
    """
    if isinstance(batch, Passes):
        return Passes(_batch_shardings(batch.parts, layout, (None,)))
    return _batch_shardings(batch, layout, ())


def _batch_shardings(batch: Any, layout: Layout, before: tuple[None, ...]) -> Any:
    def one(leaf):
        shape = np.shape(leaf)[len(before) :]
        rows = len(shape) >= 2 and shape[0] % layout.size(*stages.ROWS) == 0
        spec = PartitionSpec(*before, stages.ROWS) if rows else PartitionSpec()
        return NamedSharding(layout.mesh, spec)

    return jax.tree.map(one, batch)


def everywhere(layout: Layout) -> NamedSharding:
    """Copies the whole of an array to every device, and so every process."""
    return NamedSharding(layout.mesh, PartitionSpec())


def put(tree: Any, shardings: Any) -> Any:
    """Moves arrays to their places on the mesh, also where other processes hold a part.

    What is no global array yet is the same on every process.
    """

    def one(leaf, sharding):
        if jax.process_count() == 1 or not getattr(leaf, "is_fully_addressable", True):
            return jax.device_put(leaf, sharding)
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)

    return jax.tree.map(one, tree, shardings)


def reshaped(
    config: ModelConfig | None, layout: Layout, state: TrainState, reshape: Any
) -> TrainState:
    """Applies `partition.pack` or `unpack` to parameters and moments of the state.

    Without a config it stays as it is.
    """
    if config is None or partition.is_plain(config, layout):
        return state
    by_structure = jax.tree.structure(state.params)

    def one(node):
        if jax.tree.structure(node) == by_structure:
            return reshape(config, node, layout)
        return node

    def whole(state):
        return jax.tree.map(
            one, state, is_leaf=lambda node: jax.tree.structure(node) == by_structure
        )

    shardings = state_shardings(jax.eval_shape(whole, state), layout)
    return mesh.in_turn(layout.mesh, jax.jit(whole, out_shardings=shardings)(state))


def state_shardings(state: TrainState, layout: Layout) -> TrainState:
    """Returns shardings: moments as their parameters, scalars on every device."""
    shardings = partition.param_shardings(state.params, layout)
    by_structure = jax.tree.structure(state.params)

    def place(node):
        if jax.tree.structure(node) == by_structure:
            return shardings
        return jax.tree.map(lambda _: everywhere(layout), node)

    opt_state = jax.tree.map(
        place,
        state.opt_state,
        is_leaf=lambda node: jax.tree.structure(node) == by_structure,
    )
    return state._replace(
        params=shardings, opt_state=opt_state, step=everywhere(layout)
    )

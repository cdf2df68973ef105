"""The one training loop."""

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from nemojax.models import partition, stages
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout
from nemojax.training import checkpoints as ckpt
from nemojax.training import metrics, optimizer
from nemojax.training import stopping as stop
from nemojax.training.step import TrainState, init_state


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """What a run needs besides the batches.

    Attributes:
      name: shown in the progress line.
      optimizer: AdamW and the schedule.
      directory: holds `metrics.jsonl` and `checkpoints/`.
      layout: how a step is spread over the devices.
      checkpoint_every: steps between checkpoints; 0: none.
      config: of the model; needed where the layout packs parameters, since batches go
        in and parameters come out in the plain shape, which checkpoints have too.
    """

    name: str
    optimizer: optimizer.OptimizerConfig
    directory: Path
    layout: Layout
    checkpoint_every: int = 0
    config: ModelConfig | None = None


def train(
    run: TrainingRun, params: Any, train_step: Any, batches: Sequence[Any]
) -> tuple[Any, list[dict[str, float]]]:
    """Takes one step per batch, from the newest checkpoint if there is one.

    The batches are indexed by the step, so a resumed run sees exactly what an
    uninterrupted one sees. Metrics are fetched one step late: the device never waits
    for the host.

    Args:
      run: settings.
      params: the starting parameters; not changed.
      train_step: as `step.make_train_step` compiles it.
      batches: `batches[k]` is the batch of step k, a pytree of numpy arrays whose
        first dim is split over `data` and `pipe` where they divide it.

    Returns:
      The parameters after the last step, and one row of metrics a step.

    Raises:
      ValueError: there is no batch.
      FloatingPointError: the loss is not finite; names the step.
      OSError: a checkpoint could not be saved.
      Stopped: SIGTERM; a checkpoint has been saved. Without checkpoints it is not
        listened to.
    """
    if not batches:
        raise ValueError(f"{run.name}: the data do not fill one batch")
    params = put(params, partition.param_shardings(params, run.layout))
    state = init_state(params, optimizer.make_optimizer(run.optimizer))
    state = put(state, state_shardings(state, run.layout))
    saved = None
    if run.checkpoint_every:
        saved = ckpt.Checkpoints(run.directory / "checkpoints")
        state = saved.restore(state) or state
    done = int(state.step)
    state = _reshaped(run, state, partition.pack)
    first = jax.process_index() == 0
    log = metrics.MetricsLog(run.directory / "metrics.jsonl", done) if first else None
    with contextlib.ExitStack() as stack:
        if log is not None:
            stack.callback(log.close)
        stopping = None
        if saved is not None:
            stack.callback(saved.close)
            stopping = stack.enter_context(stop.asked())
        state = _steps(run, state, train_step, batches, done, log, saved, stopping)
    rows = metrics.read_metrics(log.path) if log is not None else []
    return _reshaped(run, state, partition.unpack).params, rows


def _steps(
    run, state: TrainState, train_step, batches, start: int, log, saved, stopping
):
    total = len(batches)
    progress = metrics.Progress(run.name, total)
    pending = None
    for k in range(start, total):
        rate = optimizer.learning_rate(run.optimizer, k, total)
        started = time.monotonic()
        batch = jax.tree.map(lambda leaf: _place(leaf, run.layout), batches[k])
        state, scalars = train_step(state, batch, np.float32(rate))
        if pending is not None:
            _report(pending, log, progress)
        done = k + 1
        pending = (done, rate, started, scalars)
        if saved is None or done == total:
            continue
        saved.check()
        told = stopping(done)
        if told or done % run.checkpoint_every == 0:
            _report(pending, log, progress)
            pending = None
            saved.save(done, _reshaped(run, state, partition.unpack))
        if told:
            raise stop.Stopped(
                f"{run.name}: stopped as told after step {done} of {total}, which is "
                "saved: run the same command again to continue"
            )
    if pending is not None:
        _report(pending, log, progress)
    return state


def _report(
    pending, log: metrics.MetricsLog | None, progress: metrics.Progress
) -> None:
    step, rate, started, scalars = pending
    row = {name: float(value) for name, value in jax.device_get(scalars).items()}
    if not np.isfinite(row["loss"]):
        raise FloatingPointError(f"{progress.name}: loss {row['loss']} at step {step}")
    seconds = time.monotonic() - started
    if log is None:  # the first process tells
        return
    log.write({"step": step, "learning_rate": rate, "seconds": seconds, **row})
    progress.show(step, f"loss {row['loss']:.4f}")


def _place(leaf: np.ndarray, layout: Layout) -> jax.Array:
    """Rows over `data` and `pipe` where they divide; all else on every device."""
    leaf = np.asarray(leaf)
    rows = leaf.ndim >= 2 and leaf.shape[0] % layout.size(*stages.ROWS) == 0
    spec = PartitionSpec(stages.ROWS) if rows else PartitionSpec()
    return put(leaf, NamedSharding(layout.mesh, spec))


def put(tree: Any, shardings: Any) -> Any:
    """Arrays to their places on the mesh, also where other processes hold a part.

    What is no global array yet is the same on every process.
    """

    def one(leaf, sharding):
        if jax.process_count() == 1 or not getattr(leaf, "is_fully_addressable", True):
            return jax.device_put(leaf, sharding)
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)

    return jax.tree.map(one, tree, shardings)


def _reshaped(run: TrainingRun, state: TrainState, reshape: Any) -> TrainState:
    """The state with `partition.pack` or `unpack` on its parameters and moments."""
    if run.config is None or partition.is_plain(run.config, run.layout):
        return state
    by_structure = jax.tree.structure(state.params)

    def one(node):
        if jax.tree.structure(node) == by_structure:
            return reshape(run.config, node, run.layout)
        return node

    def whole(state):
        return jax.tree.map(
            one, state, is_leaf=lambda node: jax.tree.structure(node) == by_structure
        )

    shardings = state_shardings(jax.eval_shape(whole, state), run.layout)
    return jax.jit(whole, out_shardings=shardings)(state)


def state_shardings(state: TrainState, layout: Layout) -> TrainState:
    """Moments live where their parameters live; scalars on every device."""
    everywhere = NamedSharding(layout.mesh, PartitionSpec())
    shardings = partition.param_shardings(state.params, layout)
    by_structure = jax.tree.structure(state.params)

    def place(node):
        if jax.tree.structure(node) == by_structure:
            return shardings
        return jax.tree.map(lambda _: everywhere, node)

    opt_state = jax.tree.map(
        place,
        state.opt_state,
        is_leaf=lambda node: jax.tree.structure(node) == by_structure,
    )
    return state._replace(params=shardings, opt_state=opt_state, step=everywhere)

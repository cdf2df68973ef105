"""The one training loop."""

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from nemojax.models import partition, stages
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout
from nemojax.training import checkpoints as ckpt
from nemojax.training import faults, metrics, optimizer, stopping
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
      spike_factor: a step is not applied whose gradient is so many times longer than
        the median of the last 100 applied ones; 0: only if it is not finite.
      max_skipped: steps in a row that may not be applied.
    """

    name: str
    optimizer: optimizer.OptimizerConfig
    directory: Path
    layout: Layout
    checkpoint_every: int = 0
    config: ModelConfig | None = None
    spike_factor: float = 0.0
    max_skipped: int = 3


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
      Diverged: too many steps in a row were not applied; names the last.
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
        told = None
        if saved is not None:
            stack.callback(saved.close)
            told = stack.enter_context(stopping.asked())
        steps = _Steps(run, train_step, batches, log, saved, told)
        state = steps.run(state, done)
    rows = metrics.read_metrics(log.path) if log is not None else []
    return _reshaped(run, state, partition.unpack).params, rows


class _Steps:
    """The steps of a run, and what is told of them: a step late, so that the device
    never waits for the host."""

    def __init__(self, run: TrainingRun, train_step, batches, log, saved, told):
        self.settings, self.train_step, self.batches = run, train_step, batches
        self.log, self.saved, self.told = log, saved, told
        self.total = len(batches)
        self.progress = metrics.Progress(run.name, self.total)
        self.watch = faults.Watch(run.directory, run.spike_factor, run.max_skipped)
        self.pending = None

    def run(self, state: TrainState, start: int) -> TrainState:
        self.watch.remember(self.settings.directory / "metrics.jsonl", start)
        for k in range(start, self.total):
            started = time.monotonic()
            limit = self.watch.limit(before=k)
            state, scalars = self._take(k, state, limit)
            self._report(state)
            self.pending = (k + 1, limit, started, scalars)
            if self.saved is not None and k + 1 < self.total:
                self._save(k + 1, state)
        self._report(state)
        return state

    def _take(self, k: int, state: TrainState, limit: float | None):
        run = self.settings
        rate = optimizer.learning_rate(run.optimizer, k, self.total)
        batch = jax.tree.map(lambda leaf: _place(leaf, run.layout), self.batches[k])
        options = {} if limit is None else {"limit": np.float32(limit)}
        return self.train_step(state, batch, np.float32(rate), **options)

    def _save(self, done: int, state: TrainState) -> None:
        self.saved.check()
        told = self.told(done)
        if told or done % self.settings.checkpoint_every == 0:
            self._report(state)
            self.saved.save(done, _reshaped(self.settings, state, partition.unpack))
        if told:
            raise stopping.Stopped(
                f"{self.settings.name}: stopped as told after step {done} of "
                f"{self.total}, which is saved: run the same command again to continue"
            )

    def _report(self, state: TrainState) -> None:
        """Of the step before; `state` is the newest, to repeat it if need be."""
        if self.pending is None:
            return
        step, limit, started, scalars = self.pending
        self.pending = None
        row = {name: float(value) for name, value in jax.device_get(scalars).items()}
        seconds = time.monotonic() - started
        rate = optimizer.learning_rate(self.settings.optimizer, step - 1, self.total)
        skipped = row.pop("skipped", 0.0)
        if self.log is not None:  # the first process tells
            told = {"skipped": True} if skipped else {}
            times = {"step": step, "learning_rate": rate, "seconds": seconds}
            self.log.write(times | row | told)
            self.progress.show(step, f"loss {row['loss']:.4f}")
        if skipped:
            again = jax.device_get(
                self._take(step - 1, jax.tree.map(jnp.copy, state), limit)[1]
            )
            self.watch.skipped(self.settings.name, step, limit, row, again)
        else:
            self.watch.applied(step, row)


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

"""The one training loop."""

import concurrent.futures
import contextlib
import dataclasses
import faulthandler
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from nemojax.errors import UserError
from nemojax.io.progress import Progress
from nemojax.models import partition
from nemojax.models.config import ModelConfig
from nemojax.parallel import processes
from nemojax.parallel.layout import Layout
from nemojax.training import checkpoints as ckpt
from nemojax.training import faults, goodput, metrics, placement, stopping
from nemojax.training.sources import Source
from nemojax.training.step import TrainState

# Processes agree on the time only so often, since each has to wait for the others then.
_CLOCK_STEPS = 10


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """Settings of a run, besides its state, step and batches.

    Attributes:
      name: Name in the progress line.
      directory: Folder of `metrics.jsonl`, `goodput.jsonl` and `checkpoints/`.
      layout: How a step is spread over the devices.
      learning_rate: Rate of step k, from 0.
      checkpoint_every: Steps between checkpoints; 0 is none.
      config: Sizes of the model, needed where the layout packs parameters: states go in
        and out in the plain shape, which checkpoints have too. None for adapters.
      checkpoint_minutes: Longest time without a checkpoint; 0 is no limit.
      save_last: Whether there is a checkpoint of the last step.
      validate: (parameters as the layout has them) -> values for the metrics.
      validate_at: Whether to validate after so many steps.
      describe: (step k, its metrics) -> more metrics, such as tokens per second, for
        which there is `seconds`.
      writer: Gets each row of metrics, in the first process.
      spike_factor: A step is not applied whose gradient norm is so many times the
        median of the last 100 applied ones; 0 is only if it is not finite.
      max_skipped: Steps in a row that may not be applied.
      profile_steps: First and last step of a profile, from 0.
      hang_seconds: A step that takes longer ends the process with the stacks of all
        its threads on stderr; 0 is never.
    """

    name: str
    directory: Path
    layout: Layout
    learning_rate: Callable[[int], float]
    checkpoint_every: int = 0
    config: ModelConfig | None = None
    checkpoint_minutes: float = 0.0
    save_last: bool = False
    validate: Callable[[Any], dict[str, float]] | None = None
    validate_at: Callable[[int], bool] = lambda done: False
    describe: Callable[[int, dict[str, float]], dict[str, float]] | None = None
    writer: Callable[[dict[str, Any]], None] | None = None
    spike_factor: float = 0.0
    max_skipped: int = 3
    profile_steps: tuple[int, int] | None = None
    hang_seconds: float = 0.0


def train(
    run: TrainingRun, state: TrainState, train_step: Any, source: Source
) -> tuple[TrainState, list[dict[str, float]]]:
    """Takes one step per batch, from the newest checkpoint if there is one.

    A resumed run sees exactly the batches that an uninterrupted one sees. Metrics are
    fetched one step late, so that the device never waits for the host.

    Args:
      run: settings.
      state: state to begin with, as `step.init_state` makes it; its arrays are used up.
      train_step: step that `step.make_train_step` compiled.
      source: batches; dims of rows are split over `data` and `pipe` where they divide.

    Returns:
      The state after the last step, and one row of metrics a step.

    Raises:
      UserError: there is no batch.
      Diverged: too many steps in a row were not applied; names the last.
      OSError: a checkpoint could not be saved.
      Stopped: SIGTERM or Ctrl-C; a checkpoint has been saved. Without checkpoints
        neither is listened to.
    """
    if not len(source):
        raise UserError(f"{run.name}: the data do not fill one batch")
    clock = goodput.Clock()
    state = placement.put(state, placement.state_shardings(state, run.layout))
    saved = None
    if run.checkpoint_every:
        saved = ckpt.Checkpoints(run.directory / "checkpoints")
        state = saved.restore(state) or state
    done = int(state.step)
    state = placement.reshaped(run.config, run.layout, state, partition.pack)
    first = processes.is_process_0()
    log = metrics.MetricsLog(run.directory / "metrics.jsonl", done) if first else None
    if log is not None:
        clock.add("lost", log.lost_seconds)
    with contextlib.ExitStack() as stack:
        if log is not None:
            stack.callback(log.close)
            stack.callback(lambda: goodput.write(run.directory, clock.seconds))
        stop_requested = None
        if saved is not None:
            stack.callback(saved.close)
            stop_requested = stack.enter_context(stopping.stop_requested())
        steps = _Steps(run, train_step, source, log, saved, stop_requested, clock)
        stack.callback(steps.close)
        clock.until_now("start")
        state = steps.run(state, done)
    rows = metrics.read_metrics(log.path) if log is not None else []
    return placement.reshaped(run.config, run.layout, state, partition.unpack), rows


class _Taken(NamedTuple):
    """A step whose metrics were not fetched yet."""

    done: int
    batch: Any
    limit: float | None
    scalars: dict[str, Any]


class _Steps:
    """The steps of a run. Metrics are reported a step late."""

    def __init__(
        self,
        run: TrainingRun,
        train_step: Any,
        source: Source,
        log: metrics.MetricsLog | None,
        saved: ckpt.Checkpoints | None,
        stop_requested: Callable[[int], bool] | None,
        clock: goodput.Clock,
    ):
        self.settings, self.train_step, self.source = run, train_step, source
        self.log, self.saved, self.clock = log, saved, clock
        self.stop_requested = stop_requested
        self.total = len(source)
        self.progress = Progress(run.name)
        self.watch = faults.Watch(run.directory, run.spike_factor, run.max_skipped)
        self.pending: _Taken | None = None
        self.shapes: set[Any] = set()
        self.reader = concurrent.futures.ThreadPoolExecutor(1, "batches")
        self.next: tuple[int, concurrent.futures.Future] | None = None
        self.profiling = False
        self.saved_at = time.monotonic()
        self.reported = self.saved_at - clock.other_seconds

    def close(self) -> None:
        """Ends what goes on beside the steps."""
        faulthandler.cancel_dump_traceback_later()
        self.reader.shutdown(wait=True, cancel_futures=True)
        self.profile(None)

    def run(self, state: TrainState, start: int) -> TrainState:
        self.watch.remember(self.settings.directory / "metrics.jsonl", start)
        self.saved_at = time.monotonic()
        self.reported = self.saved_at - self.clock.other_seconds
        for k in range(start, self.total):
            if self.settings.hang_seconds:
                faulthandler.dump_traceback_later(self.settings.hang_seconds, exit=True)
            self.profile(k)
            limit = self.watch.limit(before=k)
            with self.clock.spent("data"):
                batch = self._batch(k, state)
            state, scalars = self._step(k, state, batch, limit)
            self._report(state)
            self.pending = _Taken(k + 1, batch, limit, scalars)
            self._validate(k + 1, state)
            if self.saved is not None:
                self._save(k + 1, state)
        self._report(state)
        return state

    def profile(self, k: int | None) -> None:
        """Begins a profile before its first step, and ends it after its last."""
        steps = self.settings.profile_steps
        if steps is None:
            return
        if k == steps[0]:
            jax.profiler.start_trace(str(self.settings.directory / "profile"))
            self.profiling = True
        elif self.profiling and (k is None or k > steps[1]):
            jax.profiler.stop_trace()
            self.profiling = False

    def _batch(self, k: int, state: TrainState) -> Any:
        """Returns the batch of step k, and begins the next one where that may be."""
        if self.source.on_policy:
            return self.source.batch(k, state.params)
        if self.next is not None and self.next[0] == k:
            batch = self.next[1].result()
        else:
            batch = self.source.batch(k, None)
        self.next = None
        if k + 1 < self.total:
            self.next = k + 1, self.reader.submit(self.source.batch, k + 1, None)
        return batch

    def _step(self, k: int, state: TrainState, batch: Any, limit: float | None):
        run = self.settings
        batch = placement.place_batch(batch, run.layout)
        rate = np.float32(run.learning_rate(k))
        options = {} if limit is None else {"limit": np.float32(limit)}
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(batch))
        with contextlib.ExitStack() as stack:
            if shapes not in self.shapes:  # compiled in this call
                self.shapes.add(shapes)
                if self.log is not None:
                    self.progress.note("compiling the step")
                stack.enter_context(self.clock.spent("compile"))
            return self.train_step(state, batch, rate, **options)

    def _validate(self, done: int, state: TrainState) -> None:
        run = self.settings
        if run.validate is None or self.pending is None or not run.validate_at(done):
            return
        jax.block_until_ready(state.step)
        with self.clock.spent("validate"):
            found = run.validate(state.params)
        self.pending = self.pending._replace(scalars=self.pending.scalars | found)

    def _save(self, done: int, state: TrainState) -> None:
        assert self.saved is not None and self.stop_requested is not None
        self.saved.check()
        stop_requested = self.stop_requested(done)
        if done == self.total:
            due = self.settings.save_last
        else:
            due = done % self.settings.checkpoint_every == 0 or self._overdue(done)
        if stop_requested or due:
            self._report(state)
            run = self.settings
            with self.clock.spent("save"):
                plain = placement.reshaped(
                    run.config, run.layout, state, partition.unpack
                )
                self.saved.save(done, plain)
            self.saved_at = time.monotonic()
        if stop_requested:
            raise stopping.Stopped(
                f"{self.settings.name}: stopped as requested after step {done} of "
                f"{self.total}, which is saved: run the same command again to continue"
            )

    def _overdue(self, done: int) -> bool:
        """Returns whether the last save is too long ago, the same on every process."""
        minutes = self.settings.checkpoint_minutes
        if not minutes:
            return False
        due = time.monotonic() - self.saved_at > 60 * minutes
        if jax.process_count() == 1:
            return due
        if done % _CLOCK_STEPS:
            return False
        return bool(multihost_utils.broadcast_one_to_all(np.bool_(due)))

    def _report(self, state: TrainState) -> None:
        """Reports the step before; `state` is the newest, to repeat it if need be."""
        if self.pending is None:
            return
        step, batch, limit, scalars = self.pending
        self.pending = None
        row = {name: float(value) for name, value in jax.device_get(scalars).items()}
        skipped = row.pop("skipped", 0.0)
        now = time.monotonic() - self.clock.other_seconds
        times = {"step": step, "learning_rate": self.settings.learning_rate(step - 1)}
        row = times | {"seconds": now - self.reported} | row
        self.reported = now
        if self.settings.describe is not None:
            row |= self.settings.describe(step - 1, row)
        if self.log is not None:  # the first process tells
            row |= {"skipped": True} if skipped else {}
            self.log.write(row)
            if self.settings.writer is not None:
                self.settings.writer(row)
            self.progress.show(step, self.total, metrics.summary(row))
        if skipped:
            if not self.source.on_policy:  # read again, by the thread that reads
                batch = self.reader.submit(self.source.batch, step - 1, None).result()
            copy = jax.tree.map(jnp.copy, state)
            again = jax.device_get(self._step(step - 1, copy, batch, limit)[1])
            self.watch.skipped(self.settings.name, step, limit, row, again)
        else:
            self.watch.applied(step, row)

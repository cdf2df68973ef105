"""What the loop adds to the train step that it takes.

    python -m benchmarks.loop

The step of `benchmarks.train_step`, called in a row with nothing around it, and by the
one loop, which makes and places batches, writes metrics, prints progress and watches
for faults; in turns. Prints seconds a step of both, and what the loop adds.
"""

import pathlib
import statistics
import tempfile
import time
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks import train_step
from nemojax.cli import host
from nemojax.data.batching import batches
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from nemojax.training import loop, objectives, optimizer, placement, step

flags.DEFINE_integer("loop_turns", 4, "of each")
flags.DEFINE_integer("loop_steps", 24, "of a turn")


class Batches:
    """Made when they are asked for."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, k: int) -> batches.Batch:
        return batches.from_rows(train_step.tokens(k))


def bare(take: Any, params: Any, layout: Layout, steps: int) -> float:
    """Seconds a step, with all batches on the device before."""
    state = step.init_state(params, optimizer.make_optimizer(train_step.ADAM))
    state = placement.put(state, placement.state_shardings(state, layout))
    placed = [
        placement.place_batch(batch, layout)
        for batch in (Batches(steps)[k] for k in range(steps))
    ]
    rate = np.float32(train_step.ADAM.peak_lr)
    for batch in placed[:2]:
        state, _ = take(state, batch, rate)
    jax.block_until_ready(state.step)
    start = time.perf_counter()
    for batch in placed[2:]:
        state, _ = take(state, batch, rate)
    jax.block_until_ready(state.step)
    return (time.perf_counter() - start) / (steps - 2)


def looped(take: Any, params: Any, layout: Layout, steps: int) -> float:
    """Seconds a step of the loop, by its own metrics."""
    with tempfile.TemporaryDirectory() as folder:
        run = loop.TrainingRun("loop", train_step.ADAM, pathlib.Path(folder), layout)
        _, rows = loop.train(run, params, take, Batches(steps))  # pyright: ignore
    return statistics.fmean(row["seconds"] for row in rows[2:])


def main(argv: list[str]) -> None:
    del argv
    host.prepare()
    layout = Layout(meshes.make_mesh(data=min(2, jax.device_count())))
    config = train_step.CONFIG
    objective = objectives.language_model_objective(config, layout)
    take = step.make_train_step(objective, optimizer.make_optimizer(train_step.ADAM))
    params = train_step.initial(config)
    steps = flags.FLAGS.loop_steps
    pairs = [
        (bare(take, params, layout, steps), looped(take, params, layout, steps))
        for _ in range(flags.FLAGS.loop_turns)
    ]
    added = [b / a - 1 for a, b in pairs]
    print(f"bare step {statistics.median(a for a, _ in pairs):.4f} s")
    print(f"loop      {statistics.median(b for _, b in pairs):.4f} s a step")
    print(f"added     {statistics.median(added):+.1%}, {sorted(added)}")


if __name__ == "__main__":
    app.run(main)

"""Ten steps of a tiny model, alone or as one of several processes.

python -m tests.training.process_run ADDRESS PROCESSES NUMBER DATA,PIPE,TENSOR [MODE]

prints a hash of the parameters. MODE `forever` takes steps until it is killed;
`FOLDER SECONDS [STEP]` works in a folder, with checkpoints, and waits before each step;
the last process has no finite loss of its rows in batch STEP.
"""

import functools
import pathlib
import sys
import tempfile
import time

import jax
import numpy as np

from nemojax.cli import command
from nemojax.data.batching import batches as data_batches
from nemojax.models import forward
from nemojax.models.config import ModelConfig
from nemojax.parallel import distributed, fingerprint
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from nemojax.training import loop, objectives, optimizer, sources, step
from nemojax.training.learning_rate import LearningRate

STEPS = 10
CONFIG = ModelConfig(
    vocab_size=32,
    num_layers=2,
    d_model=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    d_ff=32,
    compute_dtype="float32",
)
RATE = LearningRate(1e-2)
OPTIMIZER = optimizer.OptimizerConfig()


class Batches:
    """Batch k is a function of k alone, and the same on every process."""

    def __init__(self, count=STEPS, pause=0.0, spoiled=None):
        self.count, self.pause, self.spoiled = count, pause, spoiled

    def __len__(self):
        return self.count

    def __getitem__(self, k):
        time.sleep(self.pause)
        rows = np.random.default_rng(k).integers(0, 29, (8, 12))
        batch = data_batches.from_rows(rows.astype(np.int32))
        if k == self.spoiled and jax.process_index() == jax.process_count() - 1:
            return batch._replace(loss_mask=batch.loss_mask * np.float32("nan"))
        return batch


def run(layout, folder, batches=None, told=lambda state: None, every=0):
    """Trains; returns the hash of the parameters."""
    objective = objectives.language_model_objective(CONFIG, layout)
    take_step = step.make_train_step(objective, optimizer.make_optimizer(OPTIMIZER))

    def take(state, batch, rate):
        told(state)
        return take_step(state, batch, rate)

    params = jax.jit(forward.init, static_argnums=0)(CONFIG, jax.random.key(0))
    batches = batches or Batches()
    rate = functools.partial(RATE.at, total=len(batches))
    settings = loop.TrainingRun(
        "toy", pathlib.Path(folder), layout, rate, every, config=CONFIG
    )
    state = step.init_state(params, optimizer.make_optimizer(OPTIMIZER))
    state, _ = loop.train(settings, state, take, sources.Fixed(batches))
    return fingerprint.parameters_sha256(state.params)


def main() -> int:
    address, count, number, axes, *mode = sys.argv[1:]
    cluster = distributed.detect(address, int(count), int(number))
    distributed.initialize(cluster)
    layout = Layout(meshes.make_mesh(*map(int, axes.split(","))), zero=1)
    if len(mode) >= 2:
        spoiled = int(mode[2]) if len(mode) > 2 else None
        batches = Batches(pause=float(mode[1]), spoiled=spoiled)
        print(run(layout, mode[0], batches, every=2), flush=True)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if not mode:
            print(run(layout, folder), flush=True)
            return 0

        def told(state):
            jax.block_until_ready(state)
            print("step", flush=True)

        run(layout, folder, Batches(10**6), told)
        return 0


if __name__ == "__main__":
    sys.exit(command.main(main))

"""A run of a few steps that can be stopped at any of them, here or by a signal.

As a program, `python -m tests.training.toy_run FOLDER STEP` is killed at a step, and
`... FOLDER STEPS EVERY SECONDS` takes so many steps with pauses, saves every so many,
and prints a hash of the parameters.
"""

import functools
import os
import pathlib
import signal
import sys
import time

import jax
import numpy as np

from nemojax.cli import command
from nemojax.data.batching import batches as data_batches
from nemojax.models import forward
from nemojax.models.config import ModelConfig
from nemojax.parallel import fingerprint
from nemojax.parallel.layout import Layout
from nemojax.training import loop, objectives, optimizer, sources, step
from nemojax.training.learning_rate import LearningRate

STEPS = 7
CHECKPOINT_EVERY = 3
CONFIG = ModelConfig(
    vocab_size=31,
    num_layers=1,
    d_model=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    d_ff=16,
    compute_dtype="float32",
)
RATE = LearningRate(1e-2, warmup=2)
OPTIMIZER = optimizer.OptimizerConfig()
STEP = step.make_train_step(
    objectives.language_model_objective(CONFIG), optimizer.make_optimizer(OPTIMIZER)
)


class Batches:
    """Random batches; asking for the one of step `stop` calls `stopped`."""

    def __init__(self, stop=None, stopped=None, *, count=STEPS, pause=0.0):
        self.stop, self.stopped = stop, stopped
        self.count, self.pause = count, pause
        self.asked = []

    def __len__(self):
        return self.count

    def __getitem__(self, k):
        self.asked.append(k)
        if k == self.stop:
            self.stopped()
        time.sleep(self.pause)
        rows = np.random.default_rng(k).integers(0, CONFIG.vocab_size, (4, 12))
        return data_batches.from_rows(rows.astype(np.int32))


def train(directory, batches, checkpoint_every=CHECKPOINT_EVERY, **options):
    """(parameters, metrics rows) of the run in a folder."""
    rate = functools.partial(RATE.at, total=len(batches))
    run = loop.TrainingRun(
        "toy", directory, Layout(), rate, checkpoint_every, **options
    )
    params = jax.jit(forward.init, static_argnums=0)(CONFIG, jax.random.key(0))
    state = step.init_state(params, optimizer.make_optimizer(OPTIMIZER))
    state, rows = loop.train(run, state, STEP, sources.Fixed(batches))
    return state.params, rows


def kill():
    """Ends this process as SIGKILL does: nothing is tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)


def _main() -> int:
    jax.config.update("jax_disable_most_optimizations", True)  # as its tests do
    folder, steps, *rest = sys.argv[1:]
    if not rest:
        train(pathlib.Path(folder), Batches(int(steps), kill))
    every, pause = rest
    batches = Batches(count=int(steps), pause=float(pause))
    params, _ = train(pathlib.Path(folder), batches, int(every))
    print(fingerprint.parameters_sha256(params), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(command.main(_main))

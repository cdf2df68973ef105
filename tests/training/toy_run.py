"""A run of a few steps that can be stopped at any of them, here or by a signal.

As a program, `python -m tests.training.toy_run FOLDER STEP` is killed at a step.
"""

import os
import pathlib
import signal
import sys

import jax
import numpy as np

from nemojax.data import batches as data_batches
from nemojax.models import forward
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout
from nemojax.training import loop, objectives, optimizer, step

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
OPTIMIZER = optimizer.OptimizerConfig(1e-2, warmup_steps=2)
STEP = step.make_train_step(
    objectives.language_model_objective(CONFIG), optimizer.make_optimizer(OPTIMIZER)
)


class Batches:
    """Random batches; asking for the one of step `stop` calls `stopped`."""

    def __init__(self, stop=None, stopped=None):
        self.stop, self.stopped = stop, stopped
        self.asked = []

    def __len__(self):
        return STEPS

    def __getitem__(self, k):
        self.asked.append(k)
        if k == self.stop:
            self.stopped()
        rows = np.random.default_rng(k).integers(0, CONFIG.vocab_size, (4, 12))
        return data_batches.from_rows(rows.astype(np.int32))


def train(directory, batches, checkpoint_every=CHECKPOINT_EVERY):
    """(parameters, metrics rows) of the run in a folder."""
    run = loop.TrainingRun("toy", OPTIMIZER, directory, Layout(), checkpoint_every)
    params = jax.jit(forward.init, static_argnums=0)(CONFIG, jax.random.key(0))
    return loop.train(run, params, STEP, batches)


def _kill():
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    jax.config.update("jax_disable_most_optimizations", True)  # as its test does
    train(pathlib.Path(sys.argv[1]), Batches(int(sys.argv[2]), _kill))

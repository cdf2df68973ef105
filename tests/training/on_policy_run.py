"""A run that trains on the best of what its own policy samples.

As a program, `python -m tests.training.on_policy_run FOLDER STEP` is killed when it is
asked for the batch of a step.
"""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from nemojax.cli import command
from nemojax.data.batching import batches as data_batches
from nemojax.models import forward
from nemojax.parallel.layout import Layout
from nemojax.training import loop, objectives, optimizer, placement, step
from tests.training import toy_run

STEPS, CHECKPOINT_EVERY = 12, 5
SAMPLES, KEPT, LENGTH = 32, 8, 8
WANTED = 7  # a reward of 1 for each of these tokens
SEED = 3


class Rollouts:
    """Batch k is the better quarter of what the parameters before step k sample.

    Asking for the batch of step `stop` calls `stopped`. `asked` has the step and the
    mean reward of all samples for each batch, `given` the last parameters' shardings.
    """

    on_policy = True

    def __init__(self, stop=None, stopped=None, *, config=toy_run.CONFIG, layout=None):
        self.stop, self.stopped = stop, stopped
        self.asked, self.rewards, self.given = [], [], None
        self.config, self.layout = config, layout

    def __len__(self):
        return STEPS

    def batch(self, k, params):
        self.asked.append(k)
        if k == self.stop:
            self.stopped()
        self.given = jax.tree.map(lambda leaf: (leaf.shape, leaf.sharding), params)
        key = jax.random.fold_in(jax.random.key(SEED), k)
        rows = np.asarray(_sample(self.config, self.layout, params, key))
        reward = (rows == WANTED).sum(1)
        self.rewards.append(reward.mean())
        best = np.argsort(-reward, kind="stable")[:KEPT]
        return data_batches.from_rows(rows[best])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sample(config, layout, params, key):
    """int32 [SAMPLES, LENGTH], which begin with token 0."""

    def append(t, rows):
        logits = forward.logits(config, params, rows, layout=layout)[:, t - 1]
        logits = logits[:, : config.vocab_size]
        tokens = jax.random.categorical(jax.random.fold_in(key, t), logits)
        return rows.at[:, t].set(tokens.astype(jnp.int32))

    rows = jnp.zeros((SAMPLES, LENGTH), jnp.int32)
    return jax.lax.fori_loop(1, LENGTH, append, rows)


ADAM = optimizer.make_optimizer(toy_run.OPTIMIZER)
init = jax.jit(forward.init, static_argnums=0)


@functools.cache
def step_of(config=toy_run.CONFIG, layout=None):
    """The compiled step."""
    objective = objectives.language_model_objective(config, layout)
    return step.make_train_step(objective, ADAM)


def start(config=toy_run.CONFIG):
    """The state to begin with, as a loop on one device has it."""
    state = step.init_state(init(config, jax.random.key(0)), ADAM)
    return placement.put(state, placement.state_shardings(state, Layout()))


def train(directory, source, config=toy_run.CONFIG, layout=None):
    """(parameters, metrics rows) of the run in a folder."""
    run = loop.TrainingRun(
        "toy", directory, layout or Layout(), rate, CHECKPOINT_EVERY, config
    )
    state, rows = loop.train(run, start(config), step_of(config, layout), source)
    return state.params, rows


def rate(k):
    """Learning rate of step k."""
    del k
    return 0.03


def _main() -> int:
    jax.config.update("jax_disable_most_optimizations", True)  # as its tests do
    folder, stop = sys.argv[1:]
    train(pathlib.Path(folder), Rollouts(int(stop), toy_run.kill))
    return 0


if __name__ == "__main__":
    sys.exit(command.main(_main))

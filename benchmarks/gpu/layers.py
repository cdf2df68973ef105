"""One GPU's share of 340B's layers: passes by remat policy, and whole train steps."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu import sizes, timing
from benchmarks.gpu.job import Job
from nemojax.data.batching import batches
from nemojax.data.batching.batches import Batch
from nemojax.models import forward, stages
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout, LayoutSpec
from nemojax.training import objectives, optimizer, placement, programs, step
from nemojax.training.optimizer import ADAMW
from nemojax.training.programs import ByLayout

_REMATS = ("selective", "mlp_preactivation", "full", "none")
# Rows of a batch, each a micro-batch, and the passes of the step that take them.
_STEPS = ((1, 1), (4, 4), (4, 1))


def run(job: Job) -> None:
    """Measures forward and backward passes, then steps with AdamW."""
    config, length = sizes.share(job.small), sizes.length(job.small)
    params = initial(config)
    for remat in _REMATS[:: 3 if job.small else 1]:
        job.measure(
            {"what": "pass", "remat": remat, "rows": 1, "passes": 1},
            functools.partial(_pass, config, length, spec(remat), params),
        )
    del params
    for rows, passes in _STEPS[: 2 if job.small else None]:
        job.measure(
            {"what": "step", "remat": "selective", "rows": rows, "passes": passes},
            functools.partial(_step, config, length, spec("selective", passes), rows),
        )


def spec(remat: str, passes: int = 1) -> LayoutSpec:
    """Returns the layout of a case: micro-batches of one row."""
    return LayoutSpec(remat=remat, rows=1, passes=passes)


def initial(config: ModelConfig) -> Any:
    """Makes random parameters."""
    return jax.jit(forward.init, static_argnums=0)(config, jax.random.key(0))


def _batch(config: ModelConfig, rows: int, length: int) -> Batch:
    shape = (rows, length)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, shape, np.int32)
    return batches.from_rows(tokens)


def _pass(
    config: ModelConfig, length: int, spec: LayoutSpec, params: Any
) -> dict[str, Any]:
    layout, _ = spec.split(1)
    objective = objectives.language_model_objective(config, layout)
    batch = placement.place_batch(_batch(config, 1, length), layout)

    # The gradients before are given back, so that there is room for one copy.
    @functools.partial(jax.jit, donate_argnums=2, keep_unused=True)
    def gradient(params, batch, before):
        return jax.grad(lambda params: objective(params, batch)[0])(params)

    held = [jax.tree.map(jnp.zeros_like, params)]
    program = gradient.lower(params, batch, held[0]).compile()

    def call():
        held[0] = program(params, batch, held[0])
        return held[0]

    found = timing.timed(call)
    return _row(found, program, config, layout, 1, length)


def _step(
    config: ModelConfig, length: int, spec: LayoutSpec, rows: int
) -> dict[str, Any]:
    layout, passes = spec.split(rows)
    objective = ByLayout(objectives.language_model_objective, config)
    train = programs.train_step(objective, ADAMW, layout)
    adam = optimizer.make_optimizer(ADAMW)
    state = step.init_state(initial(config), adam, consume=True)
    held = [placement.put(state, placement.state_shardings(state, layout))]
    del state
    batch = programs.in_passes(_batch(config, rows, length), passes)
    batch = placement.place_batch(batch, layout)
    rate = np.float32(1e-4)
    program = train.lower(held[0], batch, rate).compile()

    def call():
        held[0], metrics = program(held[0], batch, rate)
        return metrics

    found = timing.timed(call)
    return _row(found, program, config, layout, rows, length)


def _row(
    found: timing.Timing,
    program: Any,
    config: ModelConfig,
    layout: Layout,
    rows: int,
    length: int,
) -> dict[str, Any]:
    memory = program.memory_analysis()
    size = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    size += memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "attention": stages.attention_of(config, layout, length).name,
        **found.milliseconds,
        "gib": size / 2**30,
        **timing.training_rates(config, rows, length, found.best),
    }

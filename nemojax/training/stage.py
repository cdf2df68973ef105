"""One stage of training: a model, an objective and batches in, a trained model out.

Pretraining, SFT, reward models and preference tuning differ in objective and batches
alone. What comes of a stage does not depend on `Options`.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from nemojax.errors import UserError
from nemojax.models import lora, partition
from nemojax.models.config import ModelConfig
from nemojax.models.lora import LoraConfig
from nemojax.parallel import mesh as meshes
from nemojax.parallel import processes
from nemojax.parallel.layout import Layout, LayoutSpec
from nemojax.training import loop, metrics, placement, programs
from nemojax.training.best import Best
from nemojax.training.optimizer import ADAMW, OptimizerConfig, make_optimizer
from nemojax.training.sources import Source
from nemojax.training.step import Objective, init_state

VALIDATION = "validation_"
LOSS = VALIDATION + "loss"


@dataclasses.dataclass(frozen=True)
class Stage:
    """A model, an objective and batches, with all that decides the trained model.

    Attributes:
      name: Name in the progress line.
      config: Sizes of the model.
      objective: (layout) -> the objective of a batch, such as a `programs.ByLayout`.
      source: The batches.
      learning_rate: Rate of step k, from 0.
      optimizer: Constants of AdamW.
      adapters: Which adapters are trained instead of the model; None is the model.
      seed: Seed of fresh adapters.
      prepare: Completes a batch on the mesh before it is trained on, such as with the
        log-probs of the reference policy.
      measure: (parameters of a model, as the layout has them) -> held-out values, with
        names that begin with `VALIDATION`.
      measure_every: Steps between measures; 0 is at the end alone.
      describe: (step k, its metrics) -> more metrics.
      keep_best: Whether the parameters with the lowest held-out loss are kept, or those
        of the last step.
    """

    name: str
    config: ModelConfig
    objective: Callable[[Layout], Objective]
    source: Source
    learning_rate: Callable[[int], float]
    optimizer: OptimizerConfig = ADAMW
    adapters: LoraConfig | None = None
    seed: int = 0
    prepare: Callable[[Any], Any] | None = None
    measure: Callable[[Any], dict[str, float]] | None = None
    measure_every: int = 0
    describe: Callable[[int, dict[str, float]], dict[str, float]] | None = None
    keep_best: bool = False


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of how a stage is done, which do not decide its result.

    Attributes:
      spec: Mesh sizes and layout.
      checkpoint_every: Steps between checkpoints; 0 is none.
      checkpoint_minutes: Longest time without a checkpoint; 0 is no limit.
      tensorboard: Whether TensorBoard's events are written, too.
      spike_factor: See `loop.TrainingRun`.
      profile_steps: First and last step of a profile; None is no profile.
      hang_minutes: A step that takes longer ends the process; 0 is never.
    """

    spec: LayoutSpec
    checkpoint_every: int = 100
    checkpoint_minutes: float = 10.0
    tensorboard: bool = False
    spike_factor: float = 0.0
    profile_steps: tuple[int, int] | None = None
    hang_minutes: float = 0.0

    @functools.cached_property
    def layout(self) -> Layout:
        """The layout on the mesh of all processes, micro-batches undecided."""
        return self.spec.layout()


@dataclasses.dataclass(frozen=True)
class Trained:
    """Result of a stage.

    Attributes:
      params: Parameters of the whole model in the plain shape, adapters merged.
      adapters: The adapters alone; None without.
      history: A row of metrics a step, in the first process.
    """

    params: Any
    adapters: Any | None
    history: list[dict[str, float]]


def run(stage: Stage, params: Any, directory: Path, options: Options) -> Trained:
    """Trains from where the folder is, which has checkpoints and metrics.

    Args:
      stage: stage to train.
      params: parameters of the model to begin with, in the plain shape; float32 where
        the model itself is trained. They are used up.
      directory: folder of `metrics.jsonl`, `goodput.jsonl` and `checkpoints/`.
      options: options of the run.

    Raises:
      UserError: sizes that do not divide, adapters with a pipeline, or no
        batch; and as `loop.train`.
    """
    layout, low_rank = options.layout, stage.adapters
    partition.check(stage.config, layout)
    base = None
    params = placement.put(params, partition.param_shardings(params, layout))
    if low_rank is not None:
        if layout.size("pipe") > 1:
            raise UserError("adapters are trained without a pipeline: use pipe=1")
        base, params = params, lora.init(low_rank, params, jax.random.key(stage.seed))
        params = placement.put(params, partition.param_shardings(params, layout))
    frozen = None if base is None else packed(stage.config, layout, base)
    best = Best(directory) if stage.keep_best and stage.measure else None
    training_run = _training_run(stage, directory, options, best, frozen)
    state = init_state(params, make_optimizer(stage.optimizer), consume=True)
    del params
    step = _steps(stage, options, frozen)
    state, history = loop.train(training_run, state, step, stage.source)
    params = state.params
    if best:
        params = best.params(params, [row[LOSS] for row in history if LOSS in row])
    if low_rank is None:
        return Trained(params, None, history)
    return Trained(lora.merge(base, params, low_rank.scale), params, history)


def packed(config: ModelConfig, layout: Layout, params: Any) -> Any:
    """Puts plain parameters on the mesh in the shape that the layout trains."""
    params = placement.put(params, partition.param_shardings(params, layout))
    if partition.is_plain(config, layout):
        return params
    pack = functools.partial(partition.pack, config, layout=layout)
    shardings = partition.param_shardings(jax.eval_shape(pack, params), layout)
    return jax.jit(pack, out_shardings=shardings)(params)


def float32(params: Any, *, consume: bool = False) -> Any:
    """Copies parameters to float32, for an optimizer to change by little.

    Args:
      params: a tree of arrays.
      consume: deletes each array once it is copied; they are never there twice.
    """

    def one(leaf):
        if consume and leaf.dtype == jnp.float32:
            return leaf
        found = jnp.array(leaf, jnp.float32, copy=True)
        if consume and isinstance(leaf, jax.Array):
            jax.block_until_ready(found)
            leaf.delete()
        return found

    return jax.tree.map(one, params)


def _steps(stage: Stage, options: Options, frozen: Any) -> Callable[..., Any]:
    """Makes the train step of whatever number of rows a batch has."""
    mesh = options.layout.mesh

    def train_step(state, batch, rate, **limits):
        if stage.prepare is not None:
            meshes.in_turn(mesh, state)  # it depends on no step
            batch = stage.prepare(batch)
        layout = options.spec.of_pass(programs.pass_rows(batch), mesh)
        step = programs.train_step(
            stage.objective, stage.optimizer, layout, stage.adapters
        )
        return step(state, batch, rate, frozen, **limits)

    return train_step


def _training_run(
    stage: Stage, directory: Path, options: Options, best: Best | None, frozen: Any
) -> loop.TrainingRun:
    total, every = len(stage.source), stage.measure_every
    events = options.tensorboard and processes.is_process_0()
    return loop.TrainingRun(
        stage.name,
        directory,
        options.layout,
        stage.learning_rate,
        options.checkpoint_every,
        None if stage.adapters else stage.config,
        checkpoint_minutes=options.checkpoint_minutes,
        save_last=True,
        validate=_validate(stage, options.layout, best, frozen),
        validate_at=lambda done: done == total or bool(every and done % every == 0),
        describe=stage.describe,
        writer=metrics.tensorboard(directory / "tensorboard") if events else None,
        spike_factor=options.spike_factor,
        profile_steps=options.profile_steps,
        hang_seconds=60 * options.hang_minutes,
    )


def _validate(stage: Stage, layout: Layout, best: Best | None, frozen: Any) -> Any:
    """Makes (trained parameters) -> held-out values, which keeps the best ones."""
    if stage.measure is None:
        return None
    combine = programs.combine(stage.adapters)
    plain = stage.adapters is not None or partition.is_plain(stage.config, layout)

    def validate(params: Any) -> dict[str, float]:
        assert stage.measure is not None
        values = stage.measure(combine(params, frozen) if combine else params)
        if best is not None:
            kept = params if plain else partition.unpack(stage.config, params, layout)
            best.offer(values[LOSS], kept)
        return values

    return validate

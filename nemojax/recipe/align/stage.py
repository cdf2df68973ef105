"""One stage of alignment: a model and examples in, a trained model out."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nemojax.data.batching.example_batches import ExampleBatches
from nemojax.data.batching.packing import PackedBatch
from nemojax.interop.loading import LoadedModel
from nemojax.models import forward, lora, partition
from nemojax.parallel import fingerprint, processes
from nemojax.parallel.layout import Layout
from nemojax.recipe.align import measures, reference, targets
from nemojax.recipe.align import settings as kinds
from nemojax.recipe.align.examples import Examples
from nemojax.recipe.align.reference import LogProbs, ReferenceCache
from nemojax.recipe.align.settings import Settings
from nemojax.recipe.align.targets import StageBatches
from nemojax.training import loop, metrics, objectives, placement
from nemojax.training.optimizer import make_optimizer
from nemojax.training.step import make_train_step

CACHED, IN_STEP = "cached", "in_step"
TRAINED_ON, HELD_OUT = "trained_on", "held_out"


@dataclasses.dataclass(frozen=True)
class Options:
    """How a stage is done; what comes of it does not depend on it.

    Attributes:
      layout: on the mesh.
      rows: of a micro-batch; 0: one with a pipeline, else all.
      reference: "cached": log-probs of the reference are computed before and kept;
        "in_step": with each step, by a second copy of the parameters.
      checkpoint_every, checkpoint_minutes: see `loop.TrainingRun`.
      tensorboard: whether to write its events.
    """

    layout: Layout
    rows: int = 0
    reference: str = CACHED
    checkpoint_every: int = 100
    checkpoint_minutes: float = 0.0
    tensorboard: bool = False


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a stage gives.

    Attributes:
      params: of the whole model in the plain shape, adapters merged, float32.
      adapters: those alone; None without.
      history: a row of metrics a step, in the first process.
      padding: share of the slots of all batches that held nothing.
    """

    params: Any
    adapters: Any
    history: list[dict[str, float]]
    padding: float


class Stage:
    """A stage that is about to run."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        options: Options,
        model: LoadedModel,
        examples: Examples,
        held_out: Examples | None = None,
    ):
        """Packs the examples and checks that all goes together.

        Args:
          name: shown to the user.
          settings: of the stage.
          options: of the run.
          model: where it begins; also the reference of a preference stage.
          examples: to train on.
          held_out: to measure on.

        Raises:
          ValueError: sizes that do not divide, a model of another kind, or adapters
            with a pipeline.
        """
        self._name, self._settings, self._options = name, settings, options
        self._config, self._examples, self._held_out = model.config, examples, held_out
        self._start = _float32(start_params(settings, model))
        pack = functools.partial(targets.pack, settings, options.layout, options.rows)
        self._packed = pack(examples)
        self._measured = None if held_out is None else pack(held_out, held_out=True)
        self._layout = self._layout_of(self._packed)
        partition.check(self._config, self._layout)
        if settings.lora and (self._layout.size("pipe") > 1 or self._layout.zero):
            raise ValueError("adapters are trained without a pipeline and with zero=0")

    def _layout_of(self, packed: ExampleBatches) -> Layout:
        options = self._options
        return targets.micro_batched(options.layout, options.rows, packed.rows)

    def run(self, directory: Path) -> Trained:
        """Trains from where the folder is, which has checkpoints and metrics. Once."""
        settings, start = self._settings, self._start
        log_probs, caches = self._reference(directory, start)
        trained, frozen, combine = self._parts(start)
        objective = targets.make_objective(self._config, settings, self._layout)
        optimizer = make_optimizer(settings.optimizer)
        step = make_train_step(objective, optimizer, combine=combine)
        batches = StageBatches(
            settings, self._packed, self._examples.values, caches.get(TRAINED_ON)
        )
        best = measures.Best(directory) if settings.keep_best else None
        measure = self._measure(combine, frozen, log_probs, caches.get(HELD_OUT))
        run = self._training_run(directory, self._offering(measure, best))
        # From here on the devices hold the copy that is trained, and no other.
        base, given = start if settings.lora else None, [trained]
        del start, trained, self._start
        state, history = loop.train_state(
            run, given.pop(), _bound(step, frozen, log_probs), batches
        )
        params = best.params(state.params) if best else state.params
        adapters = params if settings.lora else None
        if settings.lora:
            params = lora.merge(base, params, settings.lora.scale)
        return Trained(params, adapters, history, self._packed.padding)

    def _parts(self, start: Any) -> tuple[Any, Any, Any]:
        """What is trained, what is not, and how they make a model."""
        low_rank = self._settings.lora
        if low_rank is None:
            return start, None, None
        adapters = lora.init(low_rank, start, jax.random.key(self._settings.seed))
        frozen = reference.placed(self._config, self._layout, start)
        return (
            adapters,
            frozen,
            lambda part, base: lora.attach(base, part, low_rank.scale),
        )

    def _reference(
        self, directory: Path, start: Any
    ) -> tuple[LogProbs | None, dict[str, ReferenceCache]]:
        """Of a preference stage, whose reference is the model that it begins with.

        Returns:
          What computes its log-probs, and caches that hold them: one or the other.
        """
        loss = self._settings.preference
        if loss is None or not objectives.needs_reference(loss):
            return None, {}
        if self._options.reference == IN_STEP:
            return reference.log_probs_of(self._config, self._layout, start), {}
        weights = fingerprint.parameters_sha256(start)
        sets = {TRAINED_ON: (self._examples, self._packed)}
        if self._held_out is not None and self._measured is not None:
            sets[HELD_OUT] = self._held_out, self._measured
        return None, {
            name: self._filled(directory / "reference" / name, start, weights, *found)
            for name, found in sets.items()
        }

    def _filled(
        self,
        directory: Path,
        start: Any,
        weights: str,
        examples: Examples,
        packed: ExampleBatches,
    ) -> ReferenceCache:
        """The cache of a set of pairs, filled."""
        settings, layout = self._settings, self._layout_of(packed)
        mark = {
            "parameters": weights,
            "examples": examples.fingerprint,
            "model": str(self._config),
            "batches": f"{settings.batch} in {packed.rows} x {packed.length}, "
            f"seed {settings.seed}, pack {settings.pack}",
        }
        cache = ReferenceCache(directory, mark, len(examples))
        batches = StageBatches(settings, packed, examples.values)
        log_probs = reference.log_probs_of(self._config, layout, start)

        def compute(one: PackedBatch) -> np.ndarray:
            batch = batches.pairs(one, None)
            on_mesh = jax.tree.map(
                lambda leaf: placement.place_batch(leaf, layout), batch
            )
            return np.asarray(log_probs(on_mesh))

        bar = metrics.Progress(f"{self._name} reference", packed.epoch_steps)
        show = bar.show if processes.is_first() else lambda done: None
        cache.fill(packed, compute, lambda done, _: show(done))
        return cache

    def _measure(
        self, combine, frozen, log_probs: LogProbs | None, cache: ReferenceCache | None
    ):
        """(trained parameters) -> values of the held-out examples; None without."""
        if self._held_out is None or self._measured is None:
            return None
        fill = _same
        if log_probs is not None:
            fill = functools.partial(reference.filled_in, log_probs)
        return measures.make_measure(
            self._config,
            self._settings,
            self._layout_of(self._measured),
            StageBatches(self._settings, self._measured, self._held_out.values, cache),
            (lambda params: combine(params, frozen)) if combine else _same,
            fill,
        )

    def _offering(self, measure: Any, best: measures.Best | None) -> Any:
        """Measures, and keeps what did best in the plain shape."""
        if measure is None or best is None:
            return measure
        packed = not (
            self._settings.lora or partition.is_plain(self._config, self._layout)
        )

        def validate(params: Any) -> dict[str, float]:
            values = measure(params)
            plain = params
            if packed:
                plain = partition.unpack(self._config, params, self._layout)
            best.offer(values[measures.LOSS], plain)
            return values

        return validate

    def _training_run(self, directory: Path, validate: Any) -> loop.TrainingRun:
        options, settings = self._options, self._settings
        steps, every = len(self._packed), settings.validate_every
        events = options.tensorboard and processes.is_first()
        return loop.TrainingRun(
            self._name,
            settings.optimizer,
            directory,
            self._layout,
            options.checkpoint_every,
            None if settings.lora else self._config,
            checkpoint_minutes=options.checkpoint_minutes,
            save_last=True,
            validate=validate,
            validate_at=lambda done: done == steps or bool(every and done % every == 0),
            describe=self._speed,
            writer=metrics.tensorboard(directory / "tensorboard") if events else None,
        )

    def _speed(self, k: int, row: dict[str, float]) -> dict[str, float]:
        tokens = self._packed.tokens(k)
        return {
            "tokens": tokens,
            "tokens_per_second": tokens / max(row["seconds"], 1e-9),
        }


def start_params(settings: Settings, model: LoadedModel) -> Any:
    """The model's parameters; of a reward model with its head in the LM head's place.

    Raises:
      ValueError: a policy is to be trained and the model has a reward head, or a head
        of another width.
    """
    if settings.objective not in (kinds.REGRESSION, kinds.BRADLEY_TERRY):
        if model.is_reward_model:
            raise ValueError(f"{model.name} is a reward model, no policy")
        return model.params
    if model.is_reward_model:
        width = model.params["reward_head"]["bias"].shape[0]
        if width != settings.attributes:
            raise ValueError(
                f"{model.name} gives {width} attributes, not {settings.attributes}"
            )
        return model.params
    make = functools.partial(
        forward.init, model.config, num_attributes=settings.attributes
    )
    # What is not used is not computed: only the head is made.
    head = jax.jit(lambda key: make(key)["reward_head"])(jax.random.key(settings.seed))
    trunk = {name: leaf for name, leaf in model.params.items() if name != "lm_head"}
    return trunk | {"reward_head": head}


def _same(value: Any) -> Any:
    return value


def _bound(step: Any, frozen: Any, log_probs: LogProbs | None) -> Any:
    """The step with what it needs besides state, batch and rate."""

    def train_step(state, batch, rate, **options):
        if log_probs is not None:
            batch = reference.filled_in(log_probs, batch)
        return step(state, batch, rate, frozen, **options)

    return train_step


def _float32(params: Any) -> Any:
    """Copies for the optimizer to change by little; they are rounded at the end."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)

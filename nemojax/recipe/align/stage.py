"""A stage of alignment: examples and settings as a `training.stage.Stage`."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nemojax.data.batching.example_batches import ExampleBatches
from nemojax.data.batching.examples import Examples
from nemojax.data.batching.packing import PackedBatch
from nemojax.errors import UserError
from nemojax.interop.loading import LoadedModel
from nemojax.io.progress import Progress
from nemojax.models import forward, partition
from nemojax.parallel import fingerprint, processes
from nemojax.parallel.layout import Layout
from nemojax.recipe.align import measures, targets
from nemojax.recipe.align import settings as kinds
from nemojax.recipe.align.settings import StageSettings
from nemojax.recipe.align.targets import StageBatches
from nemojax.training import objectives, placement, reference, sources, stage
from nemojax.training.reference import ReferenceCache
from nemojax.training.stage import Options, Trained

CACHED, IN_STEP = "cached", "in_step"
TRAINED_ON, HELD_OUT = "trained_on", "held_out"


@dataclasses.dataclass(frozen=True)
class StageExamples:
    """Examples of a stage with their batches.

    Attributes:
      name: `TRAINED_ON` or `HELD_OUT`.
      examples: The examples.
      packed: Their batches as sequences in rows.
    """

    name: str
    examples: Examples
    packed: ExampleBatches

    def batches(
        self, settings: StageSettings, cache: ReferenceCache | None
    ) -> StageBatches:
        """Returns the batches of the objective, by step."""
        return StageBatches(settings, self.packed, self.examples.values, cache)


def train(
    name: str,
    settings: StageSettings,
    model: LoadedModel,
    examples: Examples,
    held_out: Examples | None,
    directory: Path,
    options: Options,
    *,
    reference_log_probs: str = CACHED,
    consume: bool = False,
) -> Trained:
    """Trains a model on examples, from where the folder is.

    Args:
      name: name in the progress line.
      settings: settings that decide the result, beside model and examples.
      model: model that the stage begins with; also the reference of a preference stage.
      examples: examples to train on.
      held_out: examples to measure on.
      directory: folder of checkpoints and metrics.
      options: options of the run.
      reference_log_probs: "cached": computed before and kept on the disk; "in_step":
        with each step, by a second copy of the parameters.
      consume: whether the model's parameters may be used up.

    Raises:
      UserError: sizes that do not divide, a model of another kind, or adapters with a
        pipeline.
    """
    config, layout = model.config, options.layout
    params = start_params(settings, model)
    parts = [_part(TRAINED_ON, settings, options, examples)]
    if held_out is not None:
        parts.append(_part(HELD_OUT, settings, options, held_out))
    in_step, caches = None, {}
    loss = settings.preference
    if loss is not None and objectives.needs_reference(loss):
        log_probs = reference.log_probs_of(config, options, params)
        if reference_log_probs == IN_STEP:
            in_step = functools.partial(reference.filled_in, log_probs)
        else:
            mark = fingerprint.parameters_sha256(params)
            caches = {
                part.name: _filled(
                    f"{name} reference", settings, config, part, log_probs, mark,
                    directory / "reference" / part.name, layout,
                )
                for part in parts
            }  # fmt: skip
        del log_probs
    batches = [part.batches(settings, caches.get(part.name)) for part in parts]
    measure = None
    if held_out is not None:
        measure = measures.make_measure(config, settings, options, batches[1], in_step)
    if settings.lora is None:
        # The log-probs within the step keep the arrays that the model came with, where
        # these are not packed.
        kept = in_step is not None and partition.is_plain(config, layout)
        params = stage.float32(params, consume=consume and not kept)
    return stage.run(
        stage.Stage(
            name,
            config,
            targets.objective(config, settings),
            sources.Fixed(batches[0]),
            functools.partial(settings.learning_rate.at, total=len(batches[0])),
            settings.optimizer,
            settings.lora,
            settings.seed,
            in_step,
            measure,
            settings.validate_every,
            functools.partial(_speed, parts[0].packed),
            settings.keep_best,
        ),
        params,
        directory,
        options,
    )


def _part(
    name: str, settings: StageSettings, options: Options, examples: Examples
) -> StageExamples:
    held_out = name == HELD_OUT
    packed = targets.pack(settings, options.spec, examples, held_out=held_out)
    return StageExamples(name, examples, packed)


def _filled(
    title: str,
    settings: StageSettings,
    config: Any,
    part: StageExamples,
    log_probs: reference.LogProbs,
    weights: str,
    directory: Path,
    layout: Layout,
) -> ReferenceCache:
    """Computes the reference log-probs of pairs that are not on the disk yet."""
    packed = part.packed
    mark = {
        "parameters": weights,
        "examples": part.examples.fingerprint,
        "model": str(config),
        "batches": f"{settings.batch} in {packed.rows} x {packed.length}, "
        f"seed {settings.seed}, pack {settings.pack}",
    }
    cache = ReferenceCache(directory, mark, len(part.examples))
    batches = part.batches(settings, None)

    def compute(one: PackedBatch) -> np.ndarray:
        return np.asarray(
            log_probs(placement.place_batch(batches.pairs(one, None), layout))
        )

    line = Progress(title)
    cache.fill(
        packed,
        compute,
        lambda done, total: (
            line.show(done, total) if processes.is_process_0() else None
        ),
    )
    return cache


def _speed(packed: ExampleBatches, k: int, row: dict[str, float]) -> dict[str, float]:
    tokens = packed.tokens(k)
    return {
        "tokens": tokens,
        "tokens_per_second": tokens / max(row["seconds"], 1e-9),
        "padding": 1 - tokens / packed.slots,
    }


def start_params(settings: StageSettings, model: LoadedModel) -> Any:
    """Returns the model's parameters, a reward head in the LM head's place if due.

    Raises:
      UserError: a policy is to be trained and the model has a reward head, or a head
        of another width.
    """
    if settings.objective not in (kinds.REGRESSION, kinds.BRADLEY_TERRY):
        if model.is_reward_model:
            raise UserError(f"{model.name} is a reward model, no policy")
        return model.params
    if model.is_reward_model:
        width = model.params["reward_head"]["bias"].shape[0]
        if width != settings.attributes:
            raise UserError(
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

"""Pretraining and continued pretraining on tokenized text (340B report, section 2)."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nemojax.data.batching.batches import Batch
from nemojax.data.pretraining import samples, token_files
from nemojax.data.pretraining.blends import Blend, components
from nemojax.data.pretraining.blends import fingerprint as blend_fingerprint
from nemojax.data.pretraining.samples import BlendPhase, Samples
from nemojax.data.pretraining.token_corpus import TokenCorpus
from nemojax.errors import UserError
from nemojax.io import sealed
from nemojax.io.workdir import WorkdirError
from nemojax.models import forward, partition, presets
from nemojax.models.config import ModelConfig
from nemojax.parallel import mesh
from nemojax.parallel.layout import Layout, LayoutSpec
from nemojax.planning import counts, hardware
from nemojax.training import objectives, optimizer, placement, programs
from nemojax.training.schedule import Schedule
from nemojax.training.step import Passes

DATA = "data.json"
DATA_FAULTS = "data_faults.jsonl"
_ANY_VOCABULARY = ("miniature", "small", "nano")
BITS, LOSS = "bits_per_byte_", "validation_loss_"


@dataclasses.dataclass(frozen=True)
class PretrainSettings:
    """Settings that decide the parameters that come out.

    Attributes:
      config: sizes of the model.
      schedule: batch, learning rate, change of blend.
      optimizer: AdamW's constants.
      length: tokens of a sequence.
      seed: seed of the parameters and of the order of the data.
      isolate_documents: see `samples.Samples`.
      validate_every: steps between measures on held-out text; 0: at the end alone.
      validation_rows: sequences of each class that are measured at most.
      max_bad_fraction: largest share of the samples that may have damaged text.
    """

    config: ModelConfig
    schedule: Schedule
    optimizer: optimizer.OptimizerConfig
    length: int = 4096
    seed: int = 0
    isolate_documents: bool = False
    validate_every: int = 0
    validation_rows: int = 256
    max_bad_fraction: float = 0.001

    def to_json(self) -> dict[str, Any]:
        """Returns the settings for the configuration of a work folder."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def model_config(name: str, vocab_size: int | None = None) -> ModelConfig:
    """Returns a preset; small ones take the vocabulary of their tokenizer.

    Raises:
      UserError: no such preset, or the tokenizer has more pieces than it.
    """
    config = presets.get(name)
    if vocab_size is None:
        return config
    if name in _ANY_VOCABULARY:
        return dataclasses.replace(config, vocab_size=vocab_size)
    if vocab_size > config.vocab_size:
        raise UserError(
            f"the tokenizer has {vocab_size} pieces, {name} {config.vocab_size}"
        )
    return config


class Batches(Sequence[Batch | Passes]):
    """`batches[k]` is the batch of step k, in the passes of its layout."""

    def __init__(self, source: Samples, schedule: Schedule, spec: LayoutSpec):
        """Checks that batches of all sizes divide; nothing is read yet.

        Args:
          source: source of the samples.
          schedule: schedule with the batch sizes.
          spec: layout with the passes of each size, see `LayoutSpec.split`.

        Raises:
          ValueError: a batch does not divide.
        """
        self.source, self.schedule = source, schedule
        mesh = spec.mesh()
        self._passes = {
            phase.batch: spec.split(phase.batch, mesh)[1] for phase in schedule.phases
        }

    def __len__(self) -> int:
        return self.schedule.steps

    def __getitem__(self, k: int) -> Batch | Passes:  # pyright: ignore
        if not 0 <= k < len(self):
            raise IndexError(k)
        first, rows = self.schedule.at(k)
        batch = self.source.batch(first, rows)
        return programs.in_passes(batch, self._passes[rows])


def open_samples(
    settings: PretrainSettings,
    corpus: TokenCorpus,
    blends: Sequence[Blend],
    faults: Path | None = None,
) -> Samples:
    """Opens the samples of a run: of one blend, or of two with the change in between.

    Raises:
      DataError: a blend names text that there is not.
      UserError: the schedule changes the blend and there is one, or the reverse.
    """
    schedule = settings.schedule
    switch = schedule.switch_step
    if (switch is not None) != (len(blends) == 2):
        wanted = 1 if switch is None else 2
        raise UserError(f"this schedule takes {wanted} blends, {len(blends)} are named")
    firsts = [0] if switch is None else [0, schedule.at(switch)[0]]
    stops = [*firsts[1:], sum(phase.batch * phase.steps for phase in schedule.phases)]
    tokens = corpus.totals(token_files.TRAINING)
    parts = [
        BlendPhase(
            first, tuple(components(blend, tokens, (stop - first) * settings.length))
        )
        for blend, first, stop in zip(blends, firsts, stops, strict=True)
    ]
    return Samples(
        corpus,
        parts,
        settings.length,
        settings.seed,
        isolate_documents=settings.isolate_documents,
        faults=faults,
        max_lost=int(settings.max_bad_fraction * stops[-1]),
    )


def check_data(
    directory: Path,
    corpus: TokenCorpus,
    blends: Sequence[Blend],
    allow_change: bool = False,
) -> None:
    """Stores what the data are, or compares with what they were.

    Raises:
      WorkdirError: they are others, and `allow_change` is not given.
    """
    now = {
        "text": corpus.fingerprint,
        "tokenizer": corpus.tokenizer.fingerprint,
        "blend": [blend_fingerprint(blend) for blend in blends],
    }
    path = directory / DATA
    before = sealed.read(path) if path.exists() else now
    changed = [name for name, value in now.items() if before.get(name) != value]
    if changed and not allow_change:
        raise WorkdirError(
            f"{directory} holds a run on other data (changed: {', '.join(changed)}): a "
            "resumed run would skip and repeat samples. Choose another --workdir, or "
            "say --allow_data_change"
        )
    sealed.write(path, now)


def bits_per_byte(
    config: ModelConfig,
    layout: Layout,
    corpus: TokenCorpus,
    length: int,
    most_rows: int,
) -> Callable[[Any], dict[str, float]]:
    """Makes (params) -> mean loss and bits per byte of held-out text, by class.

    A token's loss counts if it has a token before it in its row; bits are divided by
    the bytes that a token of the class stands for. Without held-out text: nothing.
    """
    ways = layout.size("data", "pipe")
    rows = ways * max(1, min(8, -(-most_rows // ways)))
    split = token_files.VALIDATION
    found = samples.validation_batches(
        corpus, split, length, rows, max(1, most_rows // rows)
    )

    def measure(params: Any) -> dict[str, float]:
        values = {}
        for name, batches in found.items():
            parts = []
            for batch in batches:
                placed = placement.place_batch(batch, layout)
                one = _loss(config, layout, params, placed)
                parts.append(mesh.in_turn(layout.mesh, one))
            loss, weight = np.array(jax.device_get(parts), np.float64).sum(0)
            values[LOSS + name] = float(loss / weight)
            bits = float(loss / weight) / math.log(2)
            values[BITS + name] = bits / corpus.bytes_per_token(name, split)
        return values

    return measure


@functools.partial(jax.jit, static_argnums=(0, 1))
def _loss(config: ModelConfig, layout: Layout, params: Any, batch: Batch):
    """Sums the loss over the targets of a batch, and counts them."""
    objective = objectives.language_model_objective(config, layout)
    return objective(params, batch)[:2]


def speed(
    settings: PretrainSettings, devices: int, peak_flops: float
) -> Callable[[int, dict[str, float]], dict[str, float]]:
    """Makes (step, its metrics) -> tokens, tokens per second, and utilisation.

    Args:
      settings: settings of the run.
      devices: number of devices of the mesh.
      peak_flops: peak operations per second of a device; 0: not known.
    """
    flops = {
        causal: counts.flops_per_sequence(
            settings.config, settings.length, causal=causal
        )
        for causal in (False, True)
    }

    def describe(k: int, row: dict[str, float]) -> dict[str, float]:
        before, batch = settings.schedule.at(k)
        rate = batch / max(row["seconds"], 1e-9)
        found = {
            "samples": before + batch,
            "tokens": (before + batch) * settings.length,
            "tokens_per_second": rate * settings.length,
            "tokens_per_second_per_device": rate * settings.length / devices,
        }
        if peak_flops:
            found["mfu"] = rate * flops[False] / devices / peak_flops
            found["mfu_causal"] = rate * flops[True] / devices / peak_flops
        return found

    return describe


def peak_flops(device: Any) -> float:
    """Returns the peak of an accelerator in `planning.hardware`, by its kind, or 0."""
    kinds = {one.title: one.peak_flops for one in hardware.HARDWARE.values()}
    return kinds.get(device.device_kind, 0.0)


def fresh(config: ModelConfig, seed: int, layout: Layout) -> Any:
    """Parameters to begin with; made in their places."""
    make = functools.partial(forward.init, config)
    shapes = jax.eval_shape(make, jax.random.key(0))
    shardings = partition.param_shardings(shapes, layout)
    return jax.jit(make, out_shardings=shardings)(jax.random.key(seed))

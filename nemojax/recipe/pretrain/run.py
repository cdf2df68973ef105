"""A pretraining run in its folder: begun, gone on with, and told of at its end."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from nemojax.data.pretraining.blends import Blend
from nemojax.data.pretraining.samples import Samples
from nemojax.data.pretraining.token_corpus import TOKENIZER, TokenCorpus
from nemojax.interop import model_folder
from nemojax.io.shared_workdir import SharedWorkdir
from nemojax.io.workdir import write_json
from nemojax.parallel import processes
from nemojax.parallel.layout import Layout, LayoutSpec
from nemojax.recipe.pretrain import pretraining, report
from nemojax.recipe.pretrain.pretraining import Settings
from nemojax.training import goodput, loop, metrics
from nemojax.training.step import TrainState


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is done; what comes of it does not depend on it.

    Attributes:
      workdir: folder of the run.
      start: model folder to go on from; None: fresh parameters.
      checkpoint_every, checkpoint_minutes, spike_factor: see `loop.TrainingRun`.
      profile_steps: the first and the last step of a profile.
      allow_data_change: whether a run goes on with other data than it began with.
      hang_minutes: a step that takes longer ends the process; 0: never.
      tensorboard: whether to write its events too.
    """

    workdir: str | Path
    start: str | Path | None = None
    checkpoint_every: int = 500
    checkpoint_minutes: float = 0.0
    spike_factor: float = 0.0
    allow_data_change: bool = False
    profile_steps: Sequence[int] = ()
    hang_minutes: float = 0.0
    tensorboard: bool = False


def run(
    settings: Settings,
    corpus: TokenCorpus,
    blends: Sequence[Blend],
    spec: LayoutSpec,
    options: Options,
) -> tuple[dict[str, Any], str] | None:
    """Trains from where the folder is; the same for any number of processes.

    Returns:
      The result as JSON and as text; None in all processes but the first.

    Raises:
      ValueError: sizes that do not divide, data that do not fit the blend, or a folder
        of another run.
    """
    path, first = Path(options.workdir), processes.is_first()
    workdir = SharedWorkdir(path, settings.to_json())
    try:
        processes.of_first(
            lambda: pretraining.check_data(
                path, corpus, blends, options.allow_data_change
            )
        )
        layout = spec.layout()
        by_batch = pretraining.layouts(spec, settings.schedule, layout.mesh)
        faults = path / pretraining.DATA_FAULTS if first else None
        source = pretraining.open_samples(settings, corpus, blends, faults)
        state, history = loop.train_state(
            _training_run(settings, corpus, layout, options),
            _start(settings, layout, options.start),
            pretraining.train_steps(settings.config, settings.optimizer, by_batch),
            pretraining.Batches(source, settings.schedule, by_batch),
        )
        _write(path / "model", settings, corpus, state)
        return _finish(settings, source, path, history) if first else None
    finally:
        workdir.close()


def _training_run(
    settings: Settings, corpus: TokenCorpus, layout: Layout, options: Options
) -> loop.TrainingRun:
    path, steps = Path(options.workdir), settings.schedule.steps
    every, first = settings.validate_every, processes.is_first()
    events = options.tensorboard and first
    mesh = layout.mesh
    return loop.TrainingRun(
        "pretrain",
        settings.optimizer,
        path,
        layout,
        options.checkpoint_every,
        settings.config,
        checkpoint_minutes=options.checkpoint_minutes,
        save_last=True,
        learning_rate=settings.schedule.rate_at,
        validate=pretraining.bits_per_byte(
            settings.config, layout, corpus, settings.length, settings.validation_rows
        ),
        validate_at=lambda done: done == steps or bool(every and done % every == 0),
        describe=pretraining.speed(
            settings, mesh.size, pretraining.peak_flops(mesh.devices.flat[0])
        ),
        writer=metrics.tensorboard(path / "tensorboard") if events else None,
        spike_factor=options.spike_factor,
        profile_steps=_pair(options.profile_steps),
        hang_seconds=60 * options.hang_minutes,
    )


def _pair(steps: Sequence[int]) -> tuple[int, int] | None:
    """The first and the last."""
    return (steps[0], steps[-1]) if steps else None


def _start(settings: Settings, layout: Layout, folder: str | Path | None) -> Any:
    if folder is None:
        return pretraining.fresh(settings, layout)
    config, params = model_folder.read(folder, layout.mesh)
    if config != settings.config:
        raise ValueError(f"{folder} holds another model than the one that is named")
    return params


def _write(
    directory: Path, settings: Settings, corpus: TokenCorpus, state: TrainState
) -> None:
    """The model folder, where there is none yet."""
    if processes.of_first(directory.exists):
        return
    leaves = [
        (tuple(entry.key for entry in keys), leaf)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(state.params)
    ]
    tokenizer = {TOKENIZER: corpus.folder / TOKENIZER}
    model_folder.write(directory, settings.config, leaves, tokenizer)


def _finish(
    settings: Settings,
    source: Samples,
    path: Path,
    history: Sequence[dict[str, float]],
) -> tuple[dict[str, Any], str]:
    """Writes the report and the picture."""
    last, steps = history[-1], settings.schedule.steps
    mix = report.mix(source, int(last["samples"]))
    times = goodput.total(path)
    result = {
        "steps": steps,
        "samples": int(last["samples"]),
        "tokens": int(last["tokens"]),
        "metrics": last,
        "mix": mix,
        "goodput": times,
        "damaged_records": len(source.damaged),
        "samples_with_damage": len(source.lost),
    }
    write_json(path / "report.json", result)
    report.picture(history, path / "curve.png")
    lines = []
    for name, share in report.classes(mix).items():
        bits = last.get(pretraining.BITS + name)
        measured = "" if bits is None else f", {bits:.4f} bits a byte of held-out text"
        lines.append(f"{name:13} {share:.2%} of the samples{measured}")
    done = f"{steps:,} steps, {last['tokens']:,.0f} tokens, loss {last['loss']:.4f}"
    return result, "\n".join([*lines, goodput.text(times), f"{done}: {path}"])

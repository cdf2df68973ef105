"""A pretraining run in its folder: begun, resumed, and reported at its end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemojax.data.pretraining.blends import Blend
from nemojax.data.pretraining.samples import Samples
from nemojax.data.pretraining.token_corpus import TOKENIZER, TokenCorpus
from nemojax.errors import UserError
from nemojax.interop import find, model_folder
from nemojax.io import folders
from nemojax.io.workdir import Workdir
from nemojax.models import stages
from nemojax.parallel import fingerprint, processes
from nemojax.parallel.layout import Layout
from nemojax.recipe.pretrain import pretraining, report
from nemojax.recipe.pretrain.pretraining import PretrainSettings
from nemojax.training import goodput, objectives, sources, stage
from nemojax.training.programs import ByLayout
from nemojax.training.stage import Options, Stage, Trained


def run(
    settings: PretrainSettings,
    corpus: TokenCorpus,
    blends: Sequence[Blend],
    workdir: str | Path,
    options: Options,
    *,
    start: str | Path | None = None,
    allow_data_change: bool = False,
) -> tuple[dict[str, Any], str] | None:
    """Trains from where the folder is; the same for any number of processes.

    Args:
      settings: settings that decide the result, beside the data.
      corpus: tokenized text.
      blends: one, or two where the schedule changes the blend.
      workdir: folder of the run.
      options: options of the run.
      start: model folder to go on from; None is fresh parameters.
      allow_data_change: whether a run goes on with other data than it began with.

    Returns:
      The result as JSON and as text; None in all processes but the first.

    Raises:
      UserError: sizes that do not divide, data that do not fit the blend, or a folder
        of another run.
    """
    path, first = Path(workdir), processes.is_process_0()
    folder = Workdir(path, settings.to_json())
    try:
        processes.broadcast_from_process_0(
            lambda: pretraining.check_data(path, corpus, blends, allow_data_change)
        )
        faults = path / pretraining.DATA_FAULTS if first else None
        source = pretraining.open_samples(settings, corpus, blends, faults)
        trained = train(
            settings, corpus, source, _start(settings, options.layout, start), path,
            options,
        )  # fmt: skip
        digest = fingerprint.parameters_sha256(trained.params)
        kernel = stages.attention_of(settings.config, options.layout, settings.length)
        return (
            _finish(settings, source, path, trained.history, digest, kernel.name)
            if first
            else None
        )
    finally:
        folder.close()


def train(
    settings: PretrainSettings,
    corpus: TokenCorpus,
    source: Samples,
    params: Any,
    directory: Path,
    options: Options,
) -> Trained:
    """Trains on samples and writes the model folder, `directory/model`.

    Args:
      settings: settings that decide the result.
      corpus: corpus with the tokenizer, and the held-out text that is measured.
      source: the samples.
      params: parameters to begin with; they are used up.
      directory: folder of the run.
      options: options of the run.
    """
    mesh, rate = options.layout.mesh, settings.schedule.rate_at
    peak = pretraining.peak_flops(mesh.devices.flat[0])
    trained = stage.run(
        Stage(
            "pretrain",
            settings.config,
            ByLayout(objectives.language_model_objective, settings.config),
            sources.Fixed(
                pretraining.Batches(source, settings.schedule, options.spec)
            ),
            rate,
            settings.optimizer,
            measure=pretraining.bits_per_byte(
                settings.config, options.layout, corpus, settings.length,
                settings.validation_rows,
            ),
            measure_every=settings.validate_every,
            describe=pretraining.speed(settings, mesh.size, peak),
        ),
        params,
        directory,
        options,
    )  # fmt: skip
    files = {TOKENIZER: corpus.folder / TOKENIZER}
    model_folder.save(
        directory / "model", settings.config, trained.params, files=files, exist_ok=True
    )
    return trained


def _start(
    settings: PretrainSettings, layout: Layout, folder: str | Path | None
) -> Any:
    if folder is None:
        return pretraining.fresh(settings.config, settings.seed, layout)
    config, params = model_folder.read(find.find_model(folder), layout)
    if config != settings.config:
        raise UserError(f"{folder} holds another model than the one that is named")
    return stage.float32(params, consume=True)


def _finish(
    settings: PretrainSettings,
    source: Samples,
    path: Path,
    history: Sequence[dict[str, float]],
    digest: str,
    attention: str,
) -> tuple[dict[str, Any], str]:
    """Writes the report and the plot."""
    last, steps = history[-1], settings.schedule.steps
    mix = report.mix(source, int(last["samples"]))
    times = goodput.total(path)
    result = {
        "final": {
            "step": steps,
            "loss": last["loss"],
            "tokens": int(last["tokens"]),
            "parameters_sha256": digest,
        },
        "samples": int(last["samples"]),
        "metrics": last,
        "mix": mix,
        "goodput": times,
        "attention": attention,
        "damaged_records": len(source.damaged),
        "samples_with_damage": len(source.lost),
    }
    folders.write_json(path / "report.json", result)
    report.plot(history, path / "curve.png")
    lines = []
    for name, share in report.classes(mix).items():
        bits = last.get(pretraining.BITS + name)
        measured = "" if bits is None else f", {bits:.4f} bits a byte of held-out text"
        lines.append(f"{name:13} {share:.2%} of the samples{measured}")
    done = f"{steps:,} steps, {last['tokens']:,.0f} tokens, loss {last['loss']:.4f}"
    return result, "\n".join([*lines, goodput.text(times), f"{done}: {path}"])

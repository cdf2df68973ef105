"""Stages of alignment in a work folder: begun, resumed, and reported at the end.

Any number of processes do it together: all read and train, the first writes and tells.

STAGE/model/          the trained model, with its tokenizer
STAGE/adapters/       with LoRA: the adapters alone, as PEFT reads them
STAGE/metrics.jsonl   a row a step
STAGE/curve.png       the same as a plot
rejects.jsonl         rows that are not trained on, and why
report.json           the result
"""

import dataclasses
import functools
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from nemojax.data.batching.examples import Encode, Examples
from nemojax.errors import UserError
from nemojax.interop import adapters, find, loading, model_folder
from nemojax.interop.loading import LoadedModel
from nemojax.io import folders, sealed
from nemojax.io.quarantine import REJECTS
from nemojax.io.workdir import StageOutput, Workdir, WorkdirError
from nemojax.models import partition, stages
from nemojax.models.lora import LoraConfig
from nemojax.parallel import fingerprint, processes
from nemojax.parallel.layout import Layout
from nemojax.recipe.align import report, stage
from nemojax.recipe.align.data_files import DataFiles
from nemojax.recipe.align.settings import StageSettings
from nemojax.recipe.align.stage import CACHED
from nemojax.training import goodput, metrics, placement
from nemojax.training.stage import VALIDATION, Options, Trained

MODEL, REPORT, EXAMPLES = "model", "report.json", "data.json"
ADAPTERS = "adapters"


@dataclasses.dataclass(frozen=True)
class Job:
    """A run: stages one after the other, each beginning with the model of the last.

    Attributes:
      workdir: the folder.
      model: model, or its path, that the first stage begins with; it is not used up.
      template: template of conversations, see `interop.loading.load`.
      stages: names and settings.
      data: files of all stages.
      encode: (tokenizer, template) -> makes examples of records.
      values: numbers that an example has.
      reference: see `stage.train`.
    """

    workdir: str | Path
    model: str | LoadedModel
    template: str
    stages: Sequence[tuple[str, StageSettings]]
    data: DataFiles
    encode: Callable[[Any, Any], Encode]
    values: int = 0
    reference: str = CACHED


def run(job: Job, options: Options) -> tuple[dict[str, Any], str]:
    """Runs what is not finished yet.

    Returns:
      The result as JSON and as text; the same in all processes.

    Raises:
      UserError: data, a model or sizes that cannot be used, or a folder of another
        run.
    """
    if isinstance(job.model, LoadedModel):
        start: Any = _placed(job.model, options.layout)
        identity, flag = fingerprint.parameters_sha256(start.params), "out"
    else:
        start = identity = str(find.find_model(job.model))
        flag = "--workdir"
    job = dataclasses.replace(job, model=start)
    configuration = {
        "model": identity,
        "template": job.template,
        **job.data.configuration(),
        **{name: settings.to_json() for name, settings in job.stages},
    }
    examples = functools.cache(functools.partial(_examples, job))
    if not processes.broadcast_from_process_0(Path(job.workdir).exists):
        examples()  # what is wrong with them leaves no folder behind
    workdir = Workdir(job.workdir, configuration, flag)
    try:
        found, output = {}, None
        for name, settings in job.stages:

            def train(directory: Path, name=name, settings=settings, start=start):
                train, held = examples()
                _check_same(workdir.path, train)
                given = isinstance(start, LoadedModel)
                model = start
                if not given:
                    model = loading.load(start, options.layout, template=job.template)
                return train_model(
                    name, settings, model, train, held, directory, options,
                    consume=not given, reference_log_probs=job.reference,
                )  # fmt: skip

            output = workdir.stage(name, train)
            start, found[name] = str(output.directory / MODEL), output.result
        assert output is not None
        result = _result(output, found)
        processes.broadcast_from_process_0(
            lambda: folders.write_json(workdir.path / REPORT, result)
        )
        return result, _text(result)
    finally:
        workdir.close()


def _placed(model: LoadedModel, layout: Layout) -> LoadedModel:
    """Puts a model's parameters where a layout has them."""
    shardings = partition.param_shardings(model.params, layout)
    params = placement.put(model.params, shardings)
    return dataclasses.replace(model, params=params, layout=layout)


def _examples(job: Job) -> tuple[Examples, Examples | None]:
    """Reads what is trained on, and what is measured on."""
    if isinstance(job.model, LoadedModel):
        name, tokenizer, template = (
            job.model.name, job.model.tokenizer, job.model.template,
        )  # fmt: skip
    else:
        name = job.model
        tokenizer = loading.load_tokenizer(name, job.template)
        template = loading.load_template(name, job.template, tokenizer)
    if template is None:
        raise UserError(
            f"{name} has no chat template: name one with --template, "
            f"{', '.join(loading.TEMPLATES)} or a Jinja file"
        )
    encode = job.encode(tokenizer, template)
    train, held = job.data.read(encode, job.stages[0][1], job.values)
    if processes.is_process_0():
        for path, name in train.detected.items():
            print(f"{path}: {name}", file=sys.stderr)
    return train, held


def train_model(
    name: str,
    settings: StageSettings,
    model: LoadedModel,
    train: Examples,
    held_out: Examples | None,
    directory: Path,
    options: Options,
    *,
    consume: bool = True,
    **how: Any,
) -> dict[str, Any]:
    """Trains a stage and writes its model folder, `directory/model`.

    Args:
      name: name in the progress line.
      settings: settings of the stage.
      model: model that the stage begins with.
      train: examples to train on.
      held_out: examples to measure on.
      directory: folder of the stage.
      options: options of the run.
      consume: whether the model's parameters may be used up.
      how: further arguments, see `stage.train`.

    Returns:
      The facts of the stage as JSON, in the first process.
    """
    dtypes = jax.tree.map(lambda leaf: leaf.dtype, model.params)
    trained = stage.train(
        name, settings, model, train, held_out, directory, options,
        consume=consume, **how,
    )  # fmt: skip
    model_folder.save(
        directory / MODEL,
        model.config,
        trained.params,
        like=dtypes,
        files=model.files,
        exist_ok=True,
    )
    if trained.adapters is not None and settings.lora is not None:
        processes.broadcast_from_process_0(
            functools.partial(
                _save_adapters, directory, model, settings.lora, trained.adapters
            )
        )
    digest = fingerprint.parameters_sha256(trained.params)
    kernel = stages.attention_of(model.config, options.layout, settings.length)
    finish = functools.partial(
        _finish, directory, trained, digest, train, attention=kernel.name
    )
    return processes.broadcast_from_process_0(finish)


def _save_adapters(
    directory: Path, model: LoadedModel, lora: LoraConfig, tree: adapters.Adapters
) -> None:
    """Writes the adapters for PEFT, if an attempt that was killed has not."""
    if not (directory / ADAPTERS).exists():
        adapters.save(directory / ADAPTERS, model.config, lora, tree, base=model.path)


def history(directory: Path) -> list[dict[str, float]]:
    """Reads the metrics of a stage, a row a step."""
    return metrics.read_metrics(directory / "metrics.jsonl")


def _finish(
    directory: Path,
    trained: Trained,
    digest: str,
    train: Examples,
    attention: str,
) -> dict[str, Any]:
    """Writes the plot and the facts; deletes what only a resumed attempt reads."""
    rows = trained.history
    report.plot(rows, directory / "curve.png")
    facts = {
        "final": {
            "step": rows[-1]["step"],
            "loss": rows[-1]["loss"],
            "tokens": int(sum(row["tokens"] for row in rows)),
            "parameters_sha256": digest,
        },
        "first_step": rows[0],
        "last_step": rows[-1],
        "validation": [
            row for row in rows if any(key.startswith(VALIDATION) for key in row)
        ],
        "table": report.table(rows),
        "counts": train.counts,
        "formats": train.detected,
        "goodput": goodput.total(directory),
        "attention": attention,
    }
    for folder in ("checkpoints", "reference", *directory.glob("best-*")):
        shutil.rmtree(directory / folder, ignore_errors=True)
    (directory / "best.json").unlink(missing_ok=True)
    return facts


def _check_same(folder: Path, train: Examples) -> None:
    """Raises an error where the examples are not those that the run began with.

    Stores what they are, with the rows that are not trained on.
    """
    now = {"examples": train.fingerprint}

    def check():
        train.quarantine.write(folder / REJECTS)
        path = folder / EXAMPLES
        if path.exists() and sealed.read(path) != now:
            raise WorkdirError(
                f"{folder} holds a run on other examples: the data, the tokenizer or "
                "the template has changed; choose another work folder"
            )
        sealed.write(path, now)

    processes.broadcast_from_process_0(check)
    first = processes.broadcast_from_process_0(lambda: train.fingerprint)
    others = processes.total(int(train.fingerprint != first))
    if others:
        raise UserError(
            f"{others} of {jax.process_count()} processes read other examples than the "
            "first: the files of --data and the model must be the same on every host"
        )


def _result(output: StageOutput, found: dict[str, Any]) -> dict[str, Any]:
    return {
        "final": output.result["final"],
        "goodput": output.result["goodput"],
        "attention": output.result.get("attention"),
        "counts": output.result["counts"],
        "model": str(output.directory / MODEL),
        "last": output.name,
        "stages": found,
    }


def _text(result: dict[str, Any]) -> str:
    lines = []
    for name, found in result["stages"].items():
        lines += [f"{name}: {found['final']['step']:,} steps", *found["table"], ""]
    counts = dict(result["counts"])
    rows, kept = counts.pop("rows"), counts.pop("examples")
    if replayed := counts.pop("replayed", 0):
        lines.append(f"from an earlier stage: {replayed:,}")
    lines += [f"left out: {why}: {number:,}" for why, number in counts.items()]
    lines.append(
        f"{kept:,} examples of {rows:,} rows, {result['final']['tokens']:,} tokens "
        f"trained in the last stage: {result['model']}"
    )
    return "\n".join(lines)

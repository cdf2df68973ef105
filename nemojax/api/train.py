"""Training a model on rows of files or of memory: SFT, reward models, preferences.

Each function writes a work folder as the commands do, goes on with one that was
interrupted, and returns the trained model. The model that is given is not used up.
"""

import dataclasses
import difflib
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict, Unpack

from nemojax.data.batching import examples
from nemojax.data.records import AnyRecord
from nemojax.errors import UserError
from nemojax.interop import loading
from nemojax.interop.loading import LoadedModel
from nemojax.models.lora import LoraConfig
from nemojax.parallel.layout import LayoutSpec
from nemojax.recipe.align import run, stage
from nemojax.recipe.align.data_files import DataFiles
from nemojax.recipe.align.settings import PREFERENCES, PRESETS, StageSettings
from nemojax.training.learning_rate import LearningRate
from nemojax.training.objectives import PreferenceLoss
from nemojax.training.optimizer import OptimizerConfig
from nemojax.training.stage import Options

_Path = str | os.PathLike[str]
# Files and folders, or rows: records, or dicts in a format of `data.rows.formats`.
Rows = _Path | Sequence[_Path] | Iterable[dict[str, Any] | AnyRecord]


class Changes(TypedDict, total=False):
    """Settings of all functions; those left out are the report's, for large models.

    Attributes:
      held_out: rows to measure on.
      layout: spread of a step over devices; default: over those of the model.
      epochs: passes over the rows.
      batch: examples of a step.
      length: tokens of a row; longer examples are left out.
      learning_rate: peak learning rate, or all of its schedule.
      optimizer: constants of AdamW.
      seed: seed of the orders, a reward head and adapters.
      lora: adapters, which are trained instead of the model.
      pack: whether examples share rows.
      validate_every: steps between measures; 0: at the end alone.
      keep_best: whether the parameters with the lowest held-out loss are kept.
    """

    held_out: Rows
    layout: LayoutSpec
    epochs: int
    batch: int
    length: int
    learning_rate: float | LearningRate
    optimizer: OptimizerConfig
    seed: int
    lora: LoraConfig
    pack: bool
    validate_every: int
    keep_best: bool


def sft(
    model: LoadedModel, rows: Rows, *, out: _Path, **settings: Unpack[Changes]
) -> LoadedModel:
    """Trains a model on the assistant's turns of conversations.

    Args:
      model: model to begin with.
      rows: files and folders, or conversations: records, or dicts in any format of
        docs/data.md.
      out: the work folder; the trained model is in `sft/model`.
      settings: see `Changes`.

    Returns:
      The trained model.

    Raises:
      UserError: rows, settings or a folder that cannot be used.
    """
    return _train(
        "sft", PRESETS["code_sft"], model, rows, out, examples.demonstrations, settings
    )


def reward(
    model: LoadedModel,
    rows: Rows,
    *,
    out: _Path,
    objective: str = "regression",
    pairwise: str = "plain",
    **settings: Unpack[Changes],
) -> LoadedModel:
    """Trains a reward model: a head of attributes in the place of the LM head.

    Args:
      model: language model or reward model to begin with.
      rows: rows as `sft` takes them: attribute labels, or preference pairs for
        "bradley_terry".
      out: the work folder; the trained model is in `reward/model`.
      objective: "regression" on five attributes, or "bradley_terry" on pairs.
      pairwise: loss of "bradley_terry": "plain", "margin" or "scaled".
      settings: see `Changes`.

    Returns:
      The trained model.

    Raises:
      UserError: rows, settings or a folder that cannot be used.
    """
    if objective == "bradley_terry":
        preset = dataclasses.replace(
            PRESETS["bradley_terry"], pairwise=pairwise, attributes=1
        )
        encode = functools.partial(examples.compared, needs_margin=pairwise != "plain")
        return _train("reward", preset, model, rows, out, encode, settings, values=1)
    preset = dataclasses.replace(PRESETS["reward"], objective=objective)
    return _train(
        "reward", preset, model, rows, out, examples.labelled, settings,
        values=preset.attributes,
    )  # fmt: skip


def preference(
    model: LoadedModel,
    pairs: Rows,
    *,
    loss: str | PreferenceLoss = "dpo",
    out: _Path,
    reference: str = stage.CACHED,
    **settings: Unpack[Changes],
) -> LoadedModel:
    """Trains a model on preference pairs with any loss.

    Args:
      model: model to begin with, also the reference policy.
      pairs: preference pairs, as `sft` takes rows, with rewards for "rpo".
      loss: a name of `recipe.align.settings.PREFERENCES`, with its published
        coefficients; a `PreferenceConfig`; or any function of `losses.Pairs` that
        returns a value for each pair, alone or in a `losses.Loss`. One that looks at
        no reference may say so: `loss.needs_reference = False`.
      out: the work folder; the trained model is in `preference/model`.
      reference: "cached": log-probs of the reference policy are computed before; or
        "in_step": by a second copy of the parameters.
      settings: see `Changes`.

    Returns:
      The trained model.

    Raises:
      UserError: pairs, loss, settings or a folder that cannot be used.
    """
    if isinstance(loss, str):
        if loss not in PREFERENCES:
            raise UserError(f"loss {loss!r} is none of {', '.join(PREFERENCES)}")
        loss = PREFERENCES[loss]
    is_rpo = getattr(loss, "loss", "") == "rpo"
    preset = dataclasses.replace(PRESETS["rpo" if is_rpo else "dpo"], preference=loss)
    encode = functools.partial(examples.preferences, needs_rewards=is_rpo)
    return _train(
        "preference", preset, model, pairs, out, encode, settings,
        values=3, reference=reference,
    )  # fmt: skip


def _train(
    name: str,
    preset: StageSettings,
    model: LoadedModel,
    rows: Rows,
    out: _Path,
    encode: Callable[..., Any],
    changes: Changes,
    **how: Any,
) -> LoadedModel:
    if model.template is None:
        raise UserError(f"{model.name} has no chat template: load it with template=")
    _check_names(changes)
    values: dict[str, Any] = dict(changes)
    held_out = _listed(values.pop("held_out", ()))
    spec = values.pop("layout", None) or _layout_of(model)
    if isinstance(values.get("learning_rate"), int | float):
        peak = values["learning_rate"]
        values["learning_rate"] = dataclasses.replace(preset.learning_rate, peak=peak)
    settings = dataclasses.replace(preset, **values)
    if settings.lora is not None:
        spec = dataclasses.replace(spec, zero=0)  # adapters are too small to be split
    job = run.Job(
        os.fspath(out), model, loading.AUTO, [(name, settings)],
        DataFiles(_listed(rows), held_out), encode, **how,
    )  # fmt: skip
    result, _ = run.run(job, Options(spec))
    trained = loading.load(result["model"], model.layout, name=name)
    return dataclasses.replace(trained, template=model.template)


def _listed(rows: Rows) -> Sequence[Any]:
    return [rows] if isinstance(rows, str | os.PathLike) else list(rows)


def _layout_of(model: LoadedModel) -> LayoutSpec:
    return LayoutSpec(**model.mesh.shape)


def _check_names(changes: Changes) -> None:
    for name in changes.keys() - Changes.__annotations__.keys():
        near = difflib.get_close_matches(name, Changes.__annotations__, 1)
        advice = f"did you mean {near[0]}?" if near else "there are"
        known = "" if near else f" {', '.join(Changes.__annotations__)}"
        raise UserError(f"there is no setting {name!r}: {advice}{known}")

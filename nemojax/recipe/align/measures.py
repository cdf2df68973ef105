"""What is measured on held-out examples, and the parameters that did best there."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nemojax.data.records import MISSING, attribute_names
from nemojax.io.workdir import write_json
from nemojax.models.config import ModelConfig
from nemojax.parallel import processes
from nemojax.parallel.layout import Layout
from nemojax.recipe.align import settings as kinds
from nemojax.recipe.align.settings import Settings
from nemojax.recipe.align.targets import StageBatches, make_objective
from nemojax.training import checkpoints, objectives, placement

VALIDATION = "validation_"
LOSS = VALIDATION + "loss"
_RECORD = "best.json"


def make_measure(
    config: ModelConfig,
    settings: Settings,
    layout: Layout,
    batches: StageBatches,
    combine: Callable[[Any], Any],
    fill: Callable[[Any], Any] = lambda batch: batch,
) -> Callable[[Any], dict[str, float]]:
    """(trained parameters, as the layout has them) -> values of held-out examples.

    Args:
      config: sizes.
      settings: of the stage.
      layout: on the mesh.
      batches: of the held-out examples.
      combine: makes a model of what is trained.
      fill: adds reference log-probs to a batch.
    """
    objective = make_objective(config, settings, layout)

    @jax.jit
    def sums(params, batch):
        loss, weight, found = objective(combine(params), batch)
        return {"loss": (loss, weight)} | found

    @functools.partial(jax.jit, out_shardings=placement.everywhere(layout))
    def predict(params, batch):
        return objectives.reward_predictions(
            config, combine(params), batch.text, batch.last_token, layout
        )

    def measure(params: Any) -> dict[str, float]:
        totals: dict[str, np.ndarray] = {}
        predictions, labels = [], []
        for k in range(len(batches)):
            host = batches[k]
            batch = fill(placement.place_batch(host, layout))
            for name, pair in jax.device_get(sums(params, batch)).items():
                totals[name] = totals.get(name, 0) + np.array(pair, np.float64)
            if settings.objective == kinds.REGRESSION:
                there = batches.packed[k].num_sequences
                predictions.append(np.asarray(predict(params, batch))[:there])
                labels.append(host.labels[:there])
        found = {name: total / max(n, 1e-9) for name, (total, n) in totals.items()}
        if predictions:
            found |= by_attribute(np.concatenate(predictions), np.concatenate(labels))
        return {VALIDATION + name: float(value) for name, value in found.items()}

    return measure


def by_attribute(predictions_NK: np.ndarray, labels_NK: np.ndarray) -> dict[str, float]:
    """Mean squared error, Pearson's correlation and the share of predictions within 1.

    Of each attribute that is labelled at all; a correlation is NaN where either side
    is constant.
    """
    found = {}
    names = attribute_names(labels_NK.shape[1])
    for name, predicted, label in zip(
        names, predictions_NK.T, labels_NK.T, strict=True
    ):
        there = label != MISSING
        if not there.any():
            continue
        x, y = predicted[there].astype(np.float64), label[there].astype(np.float64)
        dx, dy = x - x.mean(), y - y.mean()
        scale = np.sqrt((dx**2).sum() * (dy**2).sum())
        found[f"mse_{name}"] = float(np.mean((x - y) ** 2))
        found[f"pearson_{name}"] = float((dx * dy).sum() / scale) if scale else np.nan
        found[f"within_1_{name}"] = float(np.mean(np.abs(x - y) <= 1))
    return found


class Best:
    """The trained parameters with the lowest held-out loss, kept on the disk.

    A run that goes on from an older checkpoint measures again what it had measured:
    only less than the lowest so far is kept, so the same ones come out. Several
    processes keep them together; the first one holds the record.
    """

    def __init__(self, directory: Path):
        """Of a run in a folder."""
        self._directory = directory

    def offer(self, loss: float, params: Any) -> None:
        """Keeps the parameters where the loss is the lowest so far."""
        record = self._record()
        if record is not None and not loss < record["loss"]:
            return
        number = 0 if record is None else record["number"] + 1
        checkpoints.save_params(self._folder(number), params)
        processes.of_first(lambda: self._replace(loss, number))

    def params(self, like: Any) -> Any:
        """What is kept, shaped and placed as `like`; that itself where nothing is."""
        record = self._record()
        if record is None:
            return like
        return checkpoints.load_params(self._folder(record["number"]), like)

    def _replace(self, loss: float, number: int) -> None:
        path = self._directory / _RECORD
        write_json(path, {"loss": loss, "number": number})
        shutil.rmtree(self._folder(number - 1), ignore_errors=True)

    def _folder(self, number: int) -> Path:
        return self._directory / f"best-{number}"

    def _record(self) -> dict[str, Any] | None:
        path = self._directory / _RECORD
        return processes.of_first(
            lambda: json.loads(path.read_text()) if path.exists() else None
        )

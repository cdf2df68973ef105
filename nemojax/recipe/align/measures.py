"""Values of held-out examples."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from nemojax.data.records import MISSING, attribute_names
from nemojax.models.config import ModelConfig
from nemojax.recipe.align import settings as kinds
from nemojax.recipe.align import targets
from nemojax.recipe.align.settings import StageSettings
from nemojax.recipe.align.targets import StageBatches
from nemojax.training import objectives, placement
from nemojax.training.stage import VALIDATION, Options


def make_measure(
    config: ModelConfig,
    settings: StageSettings,
    options: Options,
    batches: StageBatches,
    prepare: Callable[[Any], Any] | None = None,
) -> Callable[[Any], dict[str, float]]:
    """Makes the function (parameters of a model) -> values of held-out examples.

    Args:
      config: sizes.
      settings: settings of the stage.
      options: options with the layout that the parameters come in.
      batches: batches of the held-out examples.
      prepare: completes a batch on the mesh, such as with reference log-probs.
    """
    layout = options.spec.of_pass(batches.packed.rows, options.layout.mesh)
    objective = targets.objective(config, settings)(layout)

    @jax.jit
    def sums(params, batch):
        loss, weight, found = objective(params, batch)
        return {"loss": (loss, weight)} | found

    @functools.partial(jax.jit, out_shardings=placement.everywhere(layout))
    def predict(params, batch):
        return objectives.reward_predictions(
            config, params, batch.text, batch.last_token, layout
        )

    def measure(params: Any) -> dict[str, float]:
        totals: dict[str, np.ndarray] = {}
        predictions, labels = [], []
        parts = (p for k in range(len(batches)) for p in batches.packed.parts(k))
        for part in parts:
            host = batches.of_part(part)
            batch = placement.place_batch(host, layout)
            if prepare is not None:
                batch = prepare(batch)
            for name, pair in jax.device_get(sums(params, batch)).items():
                totals[name] = totals.get(name, 0) + np.array(pair, np.float64)
            if settings.objective == kinds.REGRESSION:
                there = part.num_sequences
                predictions.append(np.asarray(predict(params, batch))[:there])
                labels.append(host.labels[:there])
        found = {name: total / max(n, 1e-9) for name, (total, n) in totals.items()}
        if predictions:
            found |= by_attribute(np.concatenate(predictions), np.concatenate(labels))
        return {VALIDATION + name: float(value) for name, value in found.items()}

    return measure


def by_attribute(predictions_NK: np.ndarray, labels_NK: np.ndarray) -> dict[str, float]:
    """Computes squared error, Pearson's correlation and the share of errors within 1.

    Attributes without labels are left out; a correlation is NaN where either side is
    constant.
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
        found[f"mse_{name}"] = float(np.mean((x - y) ** 2))
        varies = np.ptp(x) > 0 and np.ptp(y) > 0
        found[f"pearson_{name}"] = float(np.corrcoef(x, y)[0, 1]) if varies else np.nan
        found[f"within_1_{name}"] = float(np.mean(np.abs(x - y) <= 1))
    return found

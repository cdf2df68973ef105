"""Pretraining with the validation text measured along the way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nemojax.data.batching import batches as data_batches
from nemojax.parallel.layout import Layout
from nemojax.recipe.miniature.trainer import History, Phase, Trainer
from nemojax.reporting.statistics import Estimate
from nemojax.training import loop, objectives
from nemojax.training.optimizer import make_optimizer
from nemojax.training.step import make_train_step

Measure = Callable[[Any], dict[str, Estimate]]
VALIDATED = "validation_"


def pretrain(
    trainer: Trainer,
    params: Any,
    rows_NS: np.ndarray,
    phase: Phase,
    directory: Path,
    measure: Measure,
    validations: int,
) -> tuple[Any, History]:
    """Next-token training on full rows of tokens, in the order given.

    Args:
      trainer: the model's sizes and its mesh.
      params: the starting parameters.
      rows_NS: int32 token ids; rows that do not fill a last batch are left out.
      phase: settings.
      directory: holds metrics and checkpoints.
      measure: gives estimates by name for parameters.
      validations: how often it is called, evenly spread, the end included.

    Returns:
      Parameters, and a row of metrics for each step.
    """
    batches = [
        data_batches.from_rows(rows_NS[start : start + phase.rows])
        for start in range(0, len(rows_NS) - phase.rows + 1, phase.rows)
    ]
    layout = Layout(trainer.mesh)
    step = make_train_step(
        objectives.language_model_objective(trainer.config, layout),
        make_optimizer(phase.optimizer),
    )
    steps = {round((i + 1) * len(batches) / validations) for i in range(validations)}

    def validate(params: Any) -> dict[str, float]:
        found = measure(params).items()
        return {VALIDATED + name: estimate.value for name, estimate in found}

    run = loop.TrainingRun(
        phase.name,
        phase.optimizer,
        directory,
        layout,
        phase.checkpoint_every,
        validate=validate,
        validate_at=steps.__contains__,
    )
    return loop.train(run, params, step, batches)


def validation(history: History) -> list[dict[str, float]]:
    """The measured steps of a history: `step` and the values by name."""
    return [
        {"step": row["step"]}
        | {
            name.removeprefix(VALIDATED): value
            for name, value in row.items()
            if name.startswith(VALIDATED)
        }
        for row in history
        if any(name.startswith(VALIDATED) for name in row)
    ]

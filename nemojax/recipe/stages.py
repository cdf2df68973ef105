"""Stages in a work folder, as both recipes have them: each leaves a model."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from nemojax.data.batching import examples
from nemojax.data.batching.examples import Examples
from nemojax.data.text.nemotron_template import NEMOTRON
from nemojax.data.text.tokenizer import Tokenizer
from nemojax.interop import loading, tokenizer_files
from nemojax.interop.loading import LoadedModel
from nemojax.io import folders
from nemojax.io import workdir as workdirs
from nemojax.io.workdir import StageOutput, Workdir
from nemojax.recipe.align import run as align
from nemojax.recipe.align.settings import StageSettings
from nemojax.training.stage import Options

MODEL, TOKENIZER = "model", tokenizer_files.MODEL
CURVE_POINTS = 200


@dataclasses.dataclass
class Stages:
    """Stages of a recipe, which begins with one called "tokenizer".

    Attributes:
      workdir: Where the stages live.
      options: How they are done.
      stages: Finished stages by name, in order.
    """

    workdir: Workdir
    options: Options
    stages: dict[str, StageOutput] = dataclasses.field(default_factory=dict, init=False)

    def stage(self, name: str, run: Callable[[Path], dict[str, Any]]) -> StageOutput:
        """Runs a stage that is not finished."""
        with workdirs.in_stage(name):
            self.stages[name] = self.workdir.stage(name, run)
        return self.stages[name]

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The trained tokenizer."""
        return Tokenizer.load(self.stages["tokenizer"].directory / TOKENIZER)

    def load(self, stage: str) -> LoadedModel:
        """Reads the model that a stage left."""
        return self.load_from(self.stages[stage].directory)

    def load_from(self, directory: Path) -> LoadedModel:
        """Reads the model in the folder of a stage, which may not be finished."""
        name = directory.name.removesuffix(folders.PARTIAL)
        return loading.load(directory / MODEL, self.options.layout, name=name)

    def examples(
        self,
        records: Iterable[Any],
        encode: Callable[..., examples.Encode],
        name: str,
        length: int,
        values: int = 0,
    ) -> Examples:
        """Encodes records in the chat template; see `examples.of_records`."""
        encoder = encode(self.tokenizer, NEMOTRON)
        return examples.of_records(
            records, encoder, name=name, length=length, values=values
        )

    def train(
        self,
        directory: Path,
        settings: StageSettings,
        model: LoadedModel,
        rows: Examples,
    ) -> dict[str, Any]:
        """Trains a stage of alignment and writes its model folder.

        Returns:
          What `align.train_model` does, and `steps`, `parameters_sha256`, `history`.
        """
        name = directory.name.removesuffix(folders.PARTIAL)
        found = align.train_model(
            name, settings, model, rows, None, directory, self.options
        )
        return found | {
            "steps": found["final"]["step"],
            "parameters_sha256": found["final"]["parameters_sha256"],
            "history": curve(align.history(directory)),
        }


def curve(history: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Thins out a loss curve to at most about `CURVE_POINTS` points."""
    stride = max(1, len(history) // CURVE_POINTS)
    return [
        {"step": row["step"], "loss": float(f"{row['loss']:.5g}")}
        for row in history[::stride]
    ]

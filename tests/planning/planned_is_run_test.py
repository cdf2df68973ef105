"""The step that the planner compiles is the one that the script takes."""

import dataclasses
import random

import jax
import numpy as np
import pytest

from nemojax.data.batching import batches, examples
from nemojax.io.files import Quarantine
from nemojax.models import forward
from nemojax.parallel.layout import ACCUMULATE, PIPELINES, LayoutSpec
from nemojax.planning import compiled, hardware
from nemojax.planning.alignment import Alignment
from nemojax.planning.scenario import Scenario
from nemojax.recipe.align import targets
from nemojax.recipe.align.settings import PREFERENCE, SFT, StageSettings
from nemojax.recipe.pretrain import pretraining
from nemojax.training import objectives, programs, sources, stage
from nemojax.training.learning_rate import LearningRate
from nemojax.training.programs import ByLayout
from nemojax.training.schedule import Schedule
from nemojax.training.stage import Options, Stage
from tests.models.conftest import TINY

CONFIG = dataclasses.replace(TINY, num_layers=8, vocab_size=63)
LENGTH, BATCH = 16, 32
SCHEDULE = Schedule(BATCH * 2, BATCH, LearningRate(1e-3))


class Samples:
    """Samples of one token each."""

    def batch(self, first, count):
        return batches.from_rows(np.full((count, LENGTH), first % 7, np.int32))


class Taken(Exception):
    """What a script is about to run."""


def layouts(count, seed=0):
    """Random layouts that the batch divides, on at most eight devices."""
    rng, found = random.Random(seed), []
    while len(found) < count:
        sizes = {axis: rng.choice((1, 2, 4)) for axis in ("data", "pipe", "tensor")}
        single = sizes["pipe"] == 1
        spec = LayoutSpec(
            **sizes,
            virtual_stages=rng.choice((1, 2)),
            rows=rng.choice((0, 1, 2)),
            passes=rng.choice((0, 1, 2)),
            remat=rng.choice(("none", "selective", "mlp_preactivation", "full")),
            zero=rng.choice((0, 1, 3) if single else (0, 1)),
            accumulate=rng.choice(ACCUMULATE),
            pipeline=rng.choice(PIPELINES),
        )
        if spec.devices > 8:
            continue
        try:
            planned(spec)
        except ValueError:  # sizes that do not divide
            continue
        found.append(spec)
    return found


def marked(specs, fast):
    """All but the first ones are slow."""
    return [
        *specs[:fast],
        *(pytest.param(s, marks=pytest.mark.slow) for s in specs[fast:]),
    ]


def planned(spec):
    return Scenario(CONFIG, hardware.get("tpu_v5p"), spec, BATCH, LENGTH)


def run(spec, folder, monkeypatch):
    """Lowers the step of a stage of pretraining, when it is first called."""
    source = pretraining.Batches(Samples(), SCHEDULE, spec)
    objective = ByLayout(objectives.language_model_objective, CONFIG)
    return lowered(spec, objective, source, folder, monkeypatch)


def lowered(spec, objective, batches, folder, monkeypatch):
    """Lowers the step of a stage, when it is first called."""
    make = programs.train_step

    def train_step(*arguments):
        def call(*values):
            raise Taken(make(*arguments).lower(*values))

        return call

    source = sources.Fixed(batches)
    params = jax.jit(forward.init, static_argnums=0)(CONFIG, jax.random.key(0))
    monkeypatch.setattr(programs, "train_step", train_step)
    with pytest.raises(Taken) as taken:
        stage.run(
            Stage("toy", CONFIG, objective, source, SCHEDULE.rate_at),
            params, folder, Options(spec),
        )  # fmt: skip
    return taken.value.args[0]


@pytest.mark.parametrize("spec", marked(layouts(20), fast=3))
def test_twenty_random_layouts_are_the_same_programs(spec, tmp_path, monkeypatch):
    """The same text before it is compiled, with all shapes and shardings."""
    text = compiled.lower(planned(spec), spec.mesh()).as_text()
    assert run(spec, tmp_path, monkeypatch).as_text() == text


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("sft", LayoutSpec(data=2, tensor=2, rows=8)),
        ("dpo", LayoutSpec(pipe=2, rows=8, pipeline="1f1b")),
        ("rpo", LayoutSpec(data=2, pipe=2, rows=4)),
    ],
)
def test_so_are_those_of_stages_that_look_at_targets_alone(
    name, spec, tmp_path, monkeypatch
):
    """Two sequences a row, of whose tokens a quarter are targets."""
    sequence = [1] * (LENGTH // 2), [0] * (LENGTH // 2 - 2) + [1, 1]
    groups = [[sequence, sequence]] * BATCH
    stage = Alignment(name)
    if not stage.preference:
        groups = [[sequence]] * (2 * BATCH)
    settings = StageSettings(
        PREFERENCE if stage.preference else SFT, LearningRate(1e-3),
        batch=len(groups), length=LENGTH,
        preference=dict(stage.objective(CONFIG).options).get("loss"),
    )  # fmt: skip
    found = examples.Examples(
        groups, [""] * len(groups), np.zeros((len(groups), 3)), {}, {}, Quarantine()
    )
    packed = targets.pack(settings, spec, found)
    _, room = packed.target_shape
    assert room * 4 == packed.slots / (packed.passes * packed.target_shape[0])
    alignment = dataclasses.replace(stage, targets=room)
    scenario = dataclasses.replace(planned(spec), alignment=alignment)
    batches = targets.StageBatches(settings, packed, found.values)
    text = compiled.lower(scenario, spec.mesh()).as_text()
    full = dataclasses.replace(scenario, alignment=stage)
    assert compiled.lower(full, spec.mesh()).as_text() != text
    ours = lowered(spec, stage.objective(CONFIG), batches, tmp_path, monkeypatch)
    assert ours.as_text() == text


@pytest.mark.slow
@pytest.mark.parametrize("spec", layouts(2, seed=1))
def test_compiled_they_take_the_same_bytes(spec, tmp_path, monkeypatch):
    found = compiled.compile_step(planned(spec), jax.devices()[: spec.devices])
    ours = run(spec, tmp_path, monkeypatch).compile().memory_analysis()
    assert found.arguments_bytes == ours.argument_size_in_bytes
    assert found.temporary_bytes == ours.temp_size_in_bytes

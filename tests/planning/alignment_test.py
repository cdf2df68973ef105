"""Plans of stages of alignment against their compiled steps, on fake devices."""

import dataclasses

import jax
import pytest

from nemojax.errors import UserError
from nemojax.parallel.layout import LayoutSpec
from nemojax.planning import compiled, hardware, memory
from nemojax.planning.alignment import CACHED, IN_STEP, Alignment
from nemojax.planning.scenario import Scenario
from tests.models.conftest import TINY

H100 = hardware.get("h100")
CONFIG = dataclasses.replace(TINY, compute_dtype="bfloat16")
EIGHT = LayoutSpec(data=2, pipe=2, tensor=2)


def planned(spec, *alignment):
    return Scenario(CONFIG, H100, spec, 16, 16, Alignment(*alignment))


@pytest.mark.parametrize(
    ("spec", "alignment"),
    [
        (EIGHT, ("dpo", IN_STEP)),
        pytest.param(EIGHT, ("sft",), marks=pytest.mark.slow),
        pytest.param(EIGHT, ("reward",), marks=pytest.mark.slow),
        (LayoutSpec(data=2, tensor=2), ("rpo", CACHED, 4)),
    ],
)
def test_the_state_takes_the_bytes_of_the_plan(spec, alignment):
    """Parameters, moments and the reference to the byte; batches come on top."""
    scenario = planned(spec, *alignment)
    parts = memory.per_device(scenario)
    found = compiled.compile_step(scenario, jax.devices()[: spec.devices])
    state = parts["weights"] + parts["optimizer"] + parts["reference"]
    batches = 2 * 5 * 4 * 16 * 16 / (spec.data * spec.pipe) + 4 * 32 * 16
    assert 0 <= found.arguments_bytes - state <= batches
    assert not any("permutes" in problem for problem in found.pipeline_problems)


def test_a_reference_in_the_step_is_one_copy_in_the_compute_dtype():
    cached, in_step = (
        memory.per_device(planned(EIGHT, "dpo", where)) for where in (CACHED, IN_STEP)
    )
    assert cached["reference"] == 0
    assert in_step["reference"] == cached["weights"] / 2
    assert in_step | {"reference": 0} == cached


def test_adapters_leave_the_model_frozen_in_its_compute_dtype():
    spec = LayoutSpec(data=2, tensor=2)
    whole = memory.per_device(planned(spec, "dpo"))
    found = memory.per_device(planned(spec, "dpo", IN_STEP, 2))
    assert found["reference"] == 0  # the frozen model is the reference
    assert found["optimizer"] < whole["optimizer"] / 2
    assert found["gradients"] < whole["gradients"] / 2
    adapters = found["optimizer"] / 2
    assert found["weights"] == whole["weights"] / 2 + adapters


def test_what_cannot_be_planned_is_named():
    with pytest.raises(UserError, match="without a pipeline: use pipe=1"):
        planned(EIGHT, "sft", CACHED, 8)
    with pytest.raises(UserError, match="stage='ppo' is none of sft, reward"):
        Alignment("ppo")

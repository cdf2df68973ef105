"""The prediction beside the report's Table 2, and how its parts behave."""

import dataclasses

import pytest

from nemojax.models import presets
from nemojax.parallel.layout import LayoutSpec
from nemojax.planning import hardware, roofline
from nemojax.planning.scenario import Scenario

# Data-parallel size, sequences, and utilisation of the report's Table 2.
TABLE_2 = ((16, 768, 0.424), (32, 1536, 0.423), (64, 2304, 0.410))


def scenario(data=16, batch=768, **options):
    options = {"pipe": 12, "tensor": 8, "virtual_stages": 8, **options}
    spec = LayoutSpec(data=data, **options)
    return Scenario(presets.nemotron4_340b(), hardware.get("h100"), spec, batch)


@pytest.mark.parametrize(("data", "batch", "mfu"), TABLE_2)
def test_megatron_as_in_the_report_comes_within_three_points(data, batch, mfu):
    found = roofline.predict(scenario(data, batch), roofline.REPORT)
    assert found.mfu == pytest.approx(mfu, abs=0.03)


@pytest.mark.parametrize(("data", "batch", "mfu"), TABLE_2)
def test_the_default_policy_is_predicted_at_47_percent_or_more(data, batch, mfu):
    assert roofline.predict(scenario(data, batch)).mfu >= 0.47 > mfu


def test_the_utilisation_follows_from_the_time_of_a_step():
    """768 sequences of 8.6212e15 FLOP on 1,536 devices of 989 TFLOP/s."""
    found = roofline.predict(scenario())
    assert found.mfu == pytest.approx(
        768 * 8.6212e15 / 1536 / 989e12 / found.step_seconds, rel=1e-4
    )
    assert found.causal_mfu < found.mfu
    assert found.limit == max(
        (name for name in found.parts if name != "compute"), key=found.parts.get
    )


def test_the_bubble_is_p_minus_1_of_v_times_m():
    """A stage's work on all micro-batches, times (P - 1) / (V M)."""
    found = roofline.predict(scenario()).parts
    stage = sum(found[k] for k in ("compute", "recompute", "elementwise", "tensor"))
    assert found["bubble"] / stage == pytest.approx(11 / (8 * 48))
    assert roofline.predict(scenario(virtual_stages=1)).parts[
        "bubble"
    ] == pytest.approx(8 * found["bubble"])


def test_keeping_more_computes_less_again():
    again = [
        roofline.predict(scenario(remat=remat)).parts["recompute"]
        for remat in ("none", "mlp_preactivation", "full")
    ]
    assert again[0] == 0 < 4 * again[1] < again[2]


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("tensor", {"tensor_overlap": 1.0}),
        ("pipe", {"pipe_overlap": 1.0}),
        ("data", {"data_overlap": 1.0}),
    ],
)
def test_what_hides_behind_compute_takes_no_time(part, change):
    assumed = dataclasses.replace(roofline.Assumptions(), **change)
    assert roofline.predict(scenario()).parts[part] > 0
    assert roofline.predict(scenario(), assumed).parts[part] == 0


def test_one_device_communicates_nothing():
    single = Scenario(presets.miniature(), hardware.get("a100"), length=128)
    parts = roofline.predict(single).parts
    assert [name for name, seconds in parts.items() if seconds == 0] == [
        "tensor",
        "pipe",
        "bubble",
        "data",
    ]

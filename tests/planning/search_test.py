"""Layouts that are offered fit, best first; and what is wrong with others is said."""

import dataclasses

import pytest

from nemojax.models import presets
from nemojax.parallel.layout import LayoutSpec
from nemojax.planning import hardware, memory, report, search
from nemojax.planning.scenario import Scenario

H100 = hardware.get("h100")
TABLE_2 = LayoutSpec(data=16, pipe=12, tensor=8, virtual_stages=8)


@pytest.fixture(scope="module")
def candidates():
    return search.search(presets.nemotron4_340b(), H100, 1024, 768, 4096)


def test_every_layout_offered_fits_and_uses_all_devices(candidates):
    assert len(candidates) > 10
    for one in candidates:
        assert one.scenario.devices == 1024
        assert search.fits(one.scenario)
        needed = sum(memory.per_device(one.scenario).values())
        assert one.bytes_per_device == needed <= search.USABLE * H100.memory_bytes


def test_no_two_layouts_are_the_same_program(candidates):
    programs = [(one.scenario.layout, one.scenario.passes) for one in candidates]
    assert len(set(programs)) == len(programs)
    single = search.search(presets.get("llama31_8b"), H100, 8, 8, 4096)
    programs = [(one.scenario.layout, one.scenario.passes) for one in single]
    assert len(set(programs)) == len(programs)


def test_the_fastest_comes_first(candidates):
    seconds = [one.prediction.step_seconds for one in candidates]
    assert seconds == sorted(seconds)
    table = report.candidates_text(candidates, "nemotron4_340b", 3).splitlines()
    assert len(table) == 4 + 1 + 3
    assert f"{seconds[0]:.2f}" in table[1]


def test_a_model_too_large_for_its_devices_has_no_layout():
    assert search.search(presets.nemotron4_340b(), H100, 8, 8, 4096) == []


def test_70b_fits_eight_h200s_with_few_sequences():
    model, h200 = presets.llama31_70b(), hardware.get("h200")
    assert search.search(model, h200, 8, 512, 4096) == []
    fewer = search.smaller_batch(model, h200, 8, 512, 4096)
    assert fewer is not None and search.search(model, h200, 8, fewer, 4096)
    assert search.smaller_batch(presets.nemotron4_340b(), h200, 8, 512, 4096) is None


def test_1f1b_needs_less_where_micro_batches_are_many():
    """And no more than GPipe where there is one a stage."""

    def needed(batch, pipeline):
        spec = dataclasses.replace(TABLE_2, pipeline=pipeline)
        scenario = Scenario(presets.nemotron4_340b(), H100, spec, batch)
        return memory.per_device(scenario)["activations"]

    assert needed(192, "1f1b") < needed(192, "gpipe")
    assert needed(768, "1f1b") < 0.4 * needed(768, "gpipe")
    assert needed(3072, "1f1b") == needed(768, "1f1b")


def test_the_nearest_layout_that_fits_changes_little():
    spec = dataclasses.replace(TABLE_2, remat="none")
    wide = Scenario(presets.nemotron4_340b(), H100, spec, 768)
    assert not search.fits(wide)
    nearest = search.nearest(wide)
    assert nearest is not None
    changed = dataclasses.replace(spec, remat=nearest.scenario.spec.remat)
    assert nearest.scenario.spec == changed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensor": 3}, "tensor=3 does not divide num_kv_heads=8; 1, 2, 4, 8 do"),
        ({"pipe": 7}, "pipe=7 x virtual_stages=1 does not divide num_layers=96; 1, 2"),
        ({"pipe": 12}, "use a multiple of 12"),
        ({"data": 5}, "batch=32 does not divide over data=5 x 1 rows"),
        ({"tensor": 8}, "tensor=8 does not divide 4095 tokens"),
        ({"passes": 3}, "passes=3 does not divide 32 micro-batches"),
        ({"data": 0}, "data=0 must be positive"),
        ({"remat": "some"}, "unknown remat 'some'; one of none, full, mlp"),
    ],
)
def test_sizes_that_do_not_divide_are_named_with_what_would(options, message):
    with pytest.raises(ValueError, match=message):
        Scenario(presets.nemotron4_340b(), H100, LayoutSpec(**options), 32, 4095)


def test_unknown_hardware_is_named():
    with pytest.raises(ValueError, match="unknown hardware 'h800'; one of h100, h200"):
        hardware.get("h800")

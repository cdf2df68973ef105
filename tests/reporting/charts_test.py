"""Properties of the chart geometry: scale, containment, round ticks, means."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemojax.reporting import charts
from nemojax.reporting.charts import Line, Reference

shares = st.floats(0, 1)


def cell(value: float, half: float = 0.0) -> dict:
    return {"value": value, "n": 10, "interval": [value - half, value + half]}


def panel(values, **options):
    lines = [
        Line(f"stage {i}", [(cell(v, 0.02), "stage")]) for i, v in enumerate(values)
    ]
    return charts.interval_panel("math", lines, **options)


@given(st.lists(shares, min_size=1, max_size=12), shares)
def test_everything_lies_inside_the_panel_and_in_order(values, reference):
    found = panel(values, reference=Reference(reference, "teacher", "teacher"))
    marks = [row.marks[0] for row in found.rows]
    for mark in marks:
        assert found.left <= mark.low <= mark.x <= mark.high <= found.right
    by_value = sorted(zip(values, (mark.x for mark in marks), strict=True))
    assert [x for _, x in by_value] == sorted(x for _, x in by_value)
    assert found.left <= found.reference_at <= found.right
    assert all(0 < row.y < found.bottom for row in found.rows)


@given(st.lists(shares, min_size=1, max_size=5))
def test_the_axis_is_linear_between_its_ticks(values):
    found = panel(values)
    at = [tick.at for tick in found.ticks]
    assert (at[0], at[-1]) == (found.left, found.right)
    steps = [b - a for a, b in itertools.pairwise(at)]
    assert max(steps) - min(steps) < 0.05
    labels = [float(tick.label) for tick in found.ticks]
    scale = (at[-1] - at[0]) / (labels[-1] - labels[0])
    for value, row in zip(values, found.rows, strict=True):
        assert row.marks[0].x == pytest.approx(
            at[0] + scale * (100 * value - labels[0]), abs=0.02
        )


def test_panels_that_include_the_same_bounds_share_an_axis():
    first, second = (panel([v], include=(0.2, 0.9)) for v in (0.3, 0.8))
    assert first.ticks == second.ticks


def test_a_stage_without_a_value_keeps_its_row():
    lines = [Line("Base", []), Line("SFT", [(cell(0.5), "control")])]
    found = charts.interval_panel("math", lines)
    assert [len(row.marks) for row in found.rows] == [0, 1]
    assert found.rows[1].marks[0].kind == "control"


def test_a_panel_without_any_value_is_refused():
    with pytest.raises(ValueError, match="'math' has no values"):
        charts.interval_panel("math", [Line("Base", [])])


def test_long_labels_are_cut_but_not_lost():
    lines = [Line("a very long stage name", [(cell(0.5), "stage")])]
    row = charts.interval_panel("math", lines).rows[0]
    assert len(row.label) <= charts.LABEL_CHARACTERS
    assert row.label.endswith("…")
    assert row.full_label == "a very long stage name"


def coordinates(path: str) -> list[tuple[float, float]]:
    return [
        (float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+),(-?[\d.]+)", path)
    ]


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=500))
def test_curves_stay_inside_and_run_from_left_to_right(losses):
    points = [{"step": step, "loss": loss} for step, loss in enumerate(losses)]
    found = charts.curve_panel("RPO 1", points)
    for path in (found.raw, found.smooth):
        drawn = coordinates(path)
        assert len(drawn) <= charts.CURVE_POINTS
        assert [x for x, _ in drawn] == sorted(x for x, _ in drawn)
        assert all(found.left - 0.01 <= x <= found.right + 0.01 for x, _ in drawn)
        assert all(charts.TOP - 0.01 <= y <= found.bottom + 0.01 for _, y in drawn)
    assert found.end == coordinates(found.smooth)[-1]


def test_the_running_mean_of_a_line_is_the_line():
    points = [{"step": step, "loss": 3.0 - 0.01 * step} for step in range(150)]
    found = charts.curve_panel("DPO", points)
    for raw, smooth in zip(
        coordinates(found.raw), coordinates(found.smooth), strict=True
    ):
        assert smooth == pytest.approx(raw, abs=0.02)


def test_a_noisy_curve_is_calmer_after_its_running_mean():
    points = [{"step": step, "loss": 1.0 + (-1) ** step} for step in range(180)]
    found = charts.curve_panel("DPO", points)
    heights = [y for _, y in coordinates(found.smooth)[10:-10]]
    raw = [y for _, y in coordinates(found.raw)]
    assert max(heights) - min(heights) < 0.2 * (max(raw) - min(raw))


def test_steps_without_a_loss_are_passed_over():
    points = [{"step": 0, "loss": None}, {"step": 1, "loss": 2.0}]
    assert len(coordinates(charts.curve_panel("DPO", points).raw)) == 1
    assert charts.curve_panel("DPO", points[:1]) is None


@pytest.mark.parametrize(
    ("step", "label"), [(2000, "2k"), (10_000, "2.5k"), (40, "40")]
)
def test_ticks_are_labelled_shortly(step, label):
    points = [{"step": s, "loss": 1.0} for s in (0, step)]
    labels = [tick.label for tick in charts.curve_panel("DPO", points).x_ticks]
    assert label in labels

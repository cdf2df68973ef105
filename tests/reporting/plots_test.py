"""Properties of plots: what is drawn where, the same bytes again, no global state."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemojax.reporting import plots
from nemojax.reporting.plots import Line

ROOT = pathlib.Path(plots.__file__).parents[2]
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}


def test_every_family_has_a_panel_with_every_stage(run):
    found = panels(plots.stage_figure(run))
    assert list(found) == ["math", "code", "instructions", "facts"]
    labels = [label.get_text() for label in found["math"].get_yticklabels()]
    assert labels == [stage["name"] for stage in run["stages"]]


def test_points_are_at_their_values_and_controls_are_hollow(run):
    lines = panels(plots.stage_figure(run))["math"].get_lines()
    points = [line for line in lines if line.get_marker() == "o"]
    values = [float(line.get_xdata()[0]) for line in points]
    expected = [100 * stage["metrics"]["math"]["value"] for stage in run["stages"]]
    assert values == pytest.approx(expected)
    hollow = [line.get_markerfacecolor() == "#ffffff" for line in points]
    assert hollow == [bool(stage["control"]) for stage in run["stages"]]


def test_the_teacher_is_a_dashed_line_and_missing_values_leave_no_mark(run):
    del run["stages"][0]["metrics"]["math"]
    del run["teacher"]["metrics"]["code"]
    found = panels(plots.stage_figure(run))

    def dashed(family):
        lines = found[family].get_lines()
        return [line.get_xdata()[0] for line in lines if line.get_linestyle() == "--"]

    assert dashed("math") == [pytest.approx(62.2)]
    assert dashed("code") == []
    points = [line for line in found["math"].get_lines() if line.get_marker() == "o"]
    assert len(points) == len(run["stages"]) - 1


def test_equal_reports_give_equal_files(run, tmp_path):
    for name in ("first.png", "second.png"):
        plots.write(plots.stage_figure(run), tmp_path / name)
    first = (tmp_path / "first.png").read_bytes()
    assert first.startswith(SIGNATURE)
    assert first == (tmp_path / "second.png").read_bytes()


def test_names_are_never_read_as_formulas(run, tmp_path):
    run["title"] = run["stages"][0]["name"] = r"$\frac{1}$ and $x"
    plots.write(plots.stage_figure(run), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(SIGNATURE)


def test_pyplot_and_its_global_state_are_never_loaded():
    code = (
        "import sys; from nemojax.reporting import plots; "
        "from nemojax.planning import report; "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_plot_of_a_page_is_the_same_again_and_takes_the_colours_of_the_page(run):
    lines = plots.stage_lines(run, "math")
    text = plots.interval_svg("a < b", lines)
    assert text == plots.interval_svg("a < b", lines)
    assert 'aria-label="a &lt; b"' in text
    assert "var(--stage)" in text and "var(--control)" in text
    assert not re.search("#[0-9a-f]{6};", text)


def test_panels_that_include_the_same_shares_have_the_same_axis():
    def axis(share):
        lines = [Line("all", [({"value": share, "interval": None}, "stage")])]
        return re.findall(r"<text.*", plots.interval_svg("", lines, include=(0.2, 0.9)))

    assert axis(0.3) == axis(0.8)


def test_a_long_label_is_cut():
    cell = {"value": 0.5, "interval": None}
    text = plots.interval_svg("", [Line("a very long name " * 9, [(cell, "stage")])])
    assert "a very long name a very…</text>" in text


@given(st.integers(1, 300), st.floats(-5, 5), st.floats(-5, 5))
def test_the_running_mean_of_a_line_is_the_line(count, start, slope):
    line = start + slope * np.arange(count)
    np.testing.assert_allclose(plots.running_mean(line), line, atol=1e-9)


def test_a_noisy_curve_is_calmer_after_its_running_mean():
    noisy = 1.0 + (-1.0) ** np.arange(180)
    assert np.ptp(plots.running_mean(noisy)[10:-10]) < 0.2 * np.ptp(noisy)


def test_a_curve_has_few_points_and_passes_over_steps_without_a_loss():
    points = [{"step": s, "loss": None if s % 7 == 0 else 1.0 / s} for s in range(5000)]
    paths = re.findall(r'<path d="([^"]*)"', plots.curve_svg("DPO", points))
    assert max(path.count("L") for path in paths) <= plots.CURVE_POINTS
    assert plots.curve_svg("DPO", points[:1]) is None

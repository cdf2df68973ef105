"""Properties of the PNG: one panel a family, what is drawn, no global state."""

import pathlib
import subprocess
import sys

import pytest

from nemojax.reporting import plots

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
    hollow = [line.get_markerfacecolor() == "white" for line in points]
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
        plots.write_stage_plot(tmp_path / name, run)
    first = (tmp_path / "first.png").read_bytes()
    assert first.startswith(SIGNATURE)
    assert first == (tmp_path / "second.png").read_bytes()


def test_names_are_never_read_as_formulas(run, tmp_path):
    run["title"] = run["stages"][0]["name"] = r"$\frac{1}$ and $x"
    plots.write_stage_plot(tmp_path / "plot.png", run)
    assert (tmp_path / "plot.png").read_bytes().startswith(SIGNATURE)


def test_pyplot_and_its_global_state_are_never_loaded():
    code = (
        "import sys; from nemojax.reporting import plots; "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

"""Properties of the written report: exact JSON, whole files, named faults."""

import json
import math

import numpy as np
import pytest

from nemojax.reporting import report


def test_the_json_file_is_exactly_the_report(run, tmp_path):
    run["anything"] = {"else": [1, None, True, "é\ud800", 0.1]}
    files = report.write_report(tmp_path, run)
    assert json.loads(files.json.read_text()) == run
    text = files.json.read_text()
    report.write_report(tmp_path, json.loads(text))
    assert files.json.read_text() == text


def test_three_whole_files_and_nothing_else_are_left(run, tmp_path):
    directory = tmp_path / "new" / "run"
    files = report.write_report(directory, run)
    written = sorted(path.name for path in directory.iterdir())
    assert written == ["report.html", "report.json", "stages.png"]
    assert files.html.read_text().rstrip().endswith("</html>")
    assert files.plot.read_bytes().startswith(b"\x89PNG")


def test_a_second_report_replaces_the_first(run, tmp_path):
    report.write_report(tmp_path, run)
    run["title"] = "A later run"
    files = report.write_report(tmp_path, run)
    assert "A later run" in files.html.read_text()
    assert json.loads(files.json.read_text())["title"] == "A later run"


def test_half_a_character_in_an_answer_does_not_lose_the_report(run, tmp_path):
    run["samples"][0]["after"]["text"] = "broken \ud83d"
    files = report.write_report(tmp_path, run)
    assert "broken ?" in files.html.read_text(encoding="utf-8")


def set_deep(value, path, new):
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ("stages", 2, "metrics", "math", "value"),
            math.nan,
            r"stages\[2\]\.metrics\.math\.value is nan",
        ),
        (
            ("settings", "seed"),
            np.float32(3),
            r"report\.settings\.seed is no JSON .* float32",
        ),
        (("settings", "model"), {1: 2}, r"report\.settings\.model has the key 1"),
        (("curves", "RPO 1", 3, "loss"), math.inf, r"curves\.RPO 1\[3\]\.loss is inf"),
        (("stages",), [], "stages is empty"),
        (("teacher",), {"name": "t"}, r"report\.teacher has no key 'metrics'"),
        (
            ("stages", 0, "metrics", "math"),
            {"value": 1.0},
            r"stages\[0\]\.metrics\.math has no key 'n'",
        ),
        (("stages", 0, "metrics", "math"), 0.5, r"metrics\.math has no key 'value'"),
    ],
)
def test_a_fault_is_named_with_its_place_and_nothing_is_written(
    run, tmp_path, path, value, message
):
    set_deep(run, path, value)
    with pytest.raises(ValueError, match=message):
        report.write_report(tmp_path / "run", run)
    assert not (tmp_path / "run").exists()


def test_a_diverged_run_can_be_reported(run, tmp_path):
    run["curves"]["RPO 1"] = [{"step": 0, "loss": 1.0}, {"step": 1, "loss": None}]
    files = report.write_report(tmp_path, run)
    assert "RPO 1" in files.html.read_text()

"""The log holds each step once, whatever was killed."""

import json

import pytest

from nemojax.training import metrics


def write(path, steps, start=0):
    log = metrics.MetricsLog(path, start)
    for step in steps:
        log.write({"step": step, "loss": 1 / step})
    log.close()


def test_a_log_gives_back_its_rows(tmp_path):
    path = tmp_path / "new" / "metrics.jsonl"
    write(path, [1, 2])
    expected = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]
    assert metrics.read_metrics(path) == expected
    for line, row in zip(path.read_text().splitlines(), expected, strict=True):
        assert json.loads(line).items() > row.items()


def test_a_row_that_was_changed_is_told_and_never_used(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2, 3])
    path.write_text(path.read_text().replace("0.5", "0.6"))
    assert [row["step"] for row in metrics.read_metrics(path)] == [1, 3]
    assert f"{path}, line 2: left out: it was changed" in capsys.readouterr().err


def test_rows_that_are_missing_are_told_when_a_run_goes_on(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2])
    metrics.MetricsLog(path, start_step=2).close()
    assert capsys.readouterr().err == ""
    metrics.MetricsLog(path, start_step=5).close()
    assert f"{path}: the rows of 3 of the first 5 steps" in capsys.readouterr().err


def test_each_row_is_on_disk_before_the_next_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = metrics.MetricsLog(path)
    log.write({"step": 1})
    assert metrics.read_metrics(path) == [{"step": 1}]
    log.close()


def test_reopened_it_drops_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2, 3, 4])
    write(path, [3], start=2)
    assert [row["step"] for row in metrics.read_metrics(path)] == [1, 2, 3]
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', "\n", '{"step": 3}\n{"st'])
def test_a_torn_line_is_no_row_and_is_gone_when_reopened(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2])
    with path.open("a") as file:
        file.write(torn)
    steps = [row["step"] for row in metrics.read_metrics(path)]
    assert steps in ([1, 2], [1, 2, 3])
    write(path, [3], start=2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [
        1,
        2,
        3,
    ]


def test_a_missing_log_has_no_rows(tmp_path):
    assert metrics.read_metrics(tmp_path / "metrics.jsonl") == []

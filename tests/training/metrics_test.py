"""The log holds each step once, whatever was killed; progress says what is left."""

import io
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
    assert [json.loads(line) for line in path.read_text().splitlines()] == expected


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


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Sets the seconds that `time.monotonic` tells."""

    def at(seconds):
        monkeypatch.setattr(metrics.time, "monotonic", lambda: seconds)

    at(1000.0)
    return at


def test_progress_writes_a_line_every_tenth(clock):
    stream = io.StringIO()
    progress = metrics.Progress("sft", 100, stream)
    for done in range(1, 101):
        clock(1000.0 + done)
        progress.show(done, "loss 1.5")
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == [
        f"{done}/100" for done in [1, *range(10, 101, 10)]
    ]
    assert lines[5].split() == ["sft", "50/100", "loss", "1.5", "50s", "left"]
    assert all(line == line.rstrip() for line in lines)


def test_progress_of_a_resumed_run_counts_its_own_steps(clock):
    """Steps 61 to 80 took 20 seconds, so 20 more take 20."""
    stream = io.StringIO()
    progress = metrics.Progress("sft", 100, stream)
    for done, seconds in [(60, 1000.0), (80, 1020.0)]:
        clock(seconds)
        progress.show(done)
    assert stream.getvalue().splitlines()[1].endswith("80/100   20s left")


def test_progress_in_a_terminal_is_one_line_rewritten(clock):
    """At most five times a second, the end always, and then a line break."""
    stream = Terminal()
    progress = metrics.Progress("sft", 50, stream)
    for done in range(1, 51):
        clock(1000.0 + done / 25)
        progress.show(done, "x")
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("0s left\n")
    assert 8 <= text.count("\r") <= 12
    assert "50/50 x" in text.rsplit("\r", 1)[1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (75, "1m15s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (7 * 3600 + 5 * 60 + 59, "7h05m"),
    ],
)
def test_format_seconds(seconds, text):
    """Two units, the smaller one with two digits."""
    assert metrics.format_seconds(seconds) == text

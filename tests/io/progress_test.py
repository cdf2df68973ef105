"""Progress says what is done and what is left, in few lines."""

import io

import pytest

from nemojax.io import progress
from nemojax.io.progress import Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Sets the seconds that `time.monotonic` tells."""

    def at(seconds):
        monkeypatch.setattr(progress.time, "monotonic", lambda: seconds)

    at(1000.0)
    return at


def test_progress_writes_a_line_every_tenth(clock):
    stream = io.StringIO()
    line = Progress("sft", stream)
    total = 100
    for done in range(1, 101):
        clock(1000.0 + done)
        line.show(done, total, "loss 1.5")
    lines = stream.getvalue().splitlines()
    assert [text.split()[1] for text in lines] == [
        f"{done}/100" for done in [1, *range(10, 101, 10)]
    ]
    assert lines[5].split() == ["sft", "50/100", "loss", "1.5", "50s", "left"]
    assert all(text == text.rstrip() for text in lines)


def test_progress_of_a_resumed_run_counts_its_own_steps(clock):
    """Steps 61 to 80 took 20 seconds, so 20 more take 20."""
    stream = io.StringIO()
    line = Progress("sft", stream)
    total = 100
    for done, seconds in [(60, 1000.0), (80, 1020.0)]:
        clock(seconds)
        line.show(done, total)
    assert stream.getvalue().splitlines()[1].endswith("80/100   20s left")


def test_progress_in_a_terminal_is_one_line_rewritten(clock):
    """At most five times a second, the end always, and then a line break."""
    stream = Terminal()
    line = Progress("sft", stream)
    total = 50
    for done in range(1, 51):
        clock(1000.0 + done / 25)
        line.show(done, total, "x")
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
    assert progress.format_seconds(seconds) == text

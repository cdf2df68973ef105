"""A part is whole or absent, and a whole one is never written again."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from nemojax.io.parts import Parts
from nemojax.io.quarantine import BadRow, Quarantine
from nemojax.io.workdir import WorkdirError
from tests.inference.scoring.scored import contents, read_parts

BAD = BadRow("a.jsonl", 3, "text", "tie", "é")
BAD_ROW = {"file": "a.jsonl", "row": 3, "field": "text", "reason": "tie"} | {
    "excerpt": "é"
}
ROOT = pathlib.Path(__file__).resolve().parents[2]
WRITER = """
import pathlib, sys
from nemojax.io.parts import Parts
from nemojax.io.quarantine import BadRow, Quarantine
parts = Parts(pathlib.Path(sys.argv[1]))
while (part := len(parts.facts)) < int(sys.argv[2]):
    rejects = Quarantine()
    if part % 3:
        rejects.add(BadRow("a.jsonl", part, "", "tie"))
    parts.write([{"row": 10 * part + i} for i in range(10)], rejects, {"part": part})
"""


def start(folder, count):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-c", WRITER, str(folder), str(count)]
    return subprocess.Popen(command, env=environment)


def rejected():
    quarantine = Quarantine()
    quarantine.add(BAD)
    return quarantine


def write(folder, count):
    folder.mkdir(exist_ok=True)
    parts = Parts(folder)
    for number in range(len(parts.facts), count):
        parts.write([{"a": number}, {"a": "é"}], rejected(), {"number": number})
    return parts


def test_parts_are_found_again_in_order(tmp_path):
    facts = write(tmp_path, 12).facts
    assert [fact["number"] for fact in facts] == list(range(12))
    assert Parts(tmp_path).facts == facts
    rows = [row for number in range(12) for row in ({"a": number}, {"a": "é"})]
    assert read_parts(tmp_path) == rows
    assert read_parts(tmp_path, ".rejects.jsonl") == [BAD_ROW] * 12


@pytest.mark.parametrize("step", range(3))
def test_a_part_that_was_cut_short_is_written_anew(tmp_path, monkeypatch, step):
    """Before the names of the rejects, the facts and the rows appear."""
    whole = contents(write(tmp_path / "whole", 3).directory)
    write(tmp_path / "cut", 2)
    replace, calls = os.replace, []

    def dies(*paths):
        calls.append(paths)
        if len(calls) > step:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cut", 3)
    monkeypatch.undo()
    assert len(Parts(tmp_path / "cut").facts) == 2
    assert contents(write(tmp_path / "cut", 3).directory) == whole


def test_rejects_of_a_part_that_was_cut_short_do_not_stay(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "part-00001.rejects.jsonl").write_text('{"old": 1}\n')
    Parts(tmp_path).write([{"a": 1}], Quarantine(), {})
    assert read_parts(tmp_path, ".rejects.jsonl") == [BAD_ROW]


def test_no_number_that_is_not_finite_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        Parts(tmp_path).write([{"a": float("nan")}], [], {})
    assert contents(tmp_path) == {}


def test_a_missing_or_changed_part_is_named(tmp_path):
    write(tmp_path, 3)
    rows = tmp_path / "part-00001.jsonl"
    text = rows.read_text()
    rows.write_text(text + "{}\n")
    with pytest.raises(WorkdirError, match=r"part-00001.jsonl: its size has changed"):
        Parts(tmp_path)
    rows.write_text(text[::-1])
    with pytest.raises(WorkdirError, match=r"part-00001.jsonl: its bytes have changed"):
        Parts(tmp_path)
    rows.unlink()
    with pytest.raises(WorkdirError, match=r"part-00001.*missing.*part-00002"):
        Parts(tmp_path)
    rows.write_text(text)
    (tmp_path / "part-00002.json").unlink()
    with pytest.raises(WorkdirError, match=r"part-00002.json: .*No such file"):
        Parts(tmp_path)


def test_kills_at_random_moments_change_nothing(tmp_path):
    count = 200
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    rng = random.Random(0)
    for _ in range(3):
        before = len(list(killed.glob("part-*.json")))
        process = start(killed, count)
        while len(list(killed.glob("part-*.json"))) == before:
            assert process.poll() is None
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "there are too few parts"
    for folder in (whole, killed):
        assert start(folder, count).wait() == 0
    assert contents(killed) == contents(whole)
    assert [row["row"] for row in read_parts(killed)] == list(range(10 * count))

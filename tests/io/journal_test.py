"""Properties of the journal: identity, refusal of duplicates, recovery after a kill."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemojax.io import journal
from nemojax.io.journal import Journal, JournalRow

ROOT = pathlib.Path(journal.__file__).parents[2]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
).filter(lambda value: "Infinity" not in json.dumps(value))
rows = st.builds(
    JournalRow,
    stage=st.text(),
    content=st.dictionaries(st.text(), values),
    parents=st.lists(st.text()).map(tuple),
    model=st.text(),
    sampling=st.dictionaries(st.text(), values),
    created=st.text(),
)


def row(number: int, **fields) -> JournalRow:
    return JournalRow("prompts/1", {"text": f"row {number}"}, model="teacher", **fields)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "data" / "rows.jsonl"


@settings(max_examples=25)
@given(st.lists(rows, max_size=5, unique_by=lambda r: r.id))
def test_what_was_written_is_read_back_in_order(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("journal") / "rows.jsonl"
    with Journal(path) as first:
        first.append(written)
    with Journal(path) as second:
        assert list(second) == written
        assert second.recovery == journal.Recovery(len(written), 0, ())
        assert all(r.id in second for r in written)


def test_the_id_covers_everything_but_the_time():
    base = row(0, parents=("a",), sampling={"seed": 1, "temperature": 0.5})
    reordered = row(0, parents=("a",), sampling={"temperature": 0.5, "seed": 1})
    assert base.id == reordered.id
    assert (
        base.id
        == row(0, parents=("a",), sampling=base.sampling, created="2024-06-14").id
    )
    others = [
        row(1, parents=("a",), sampling=base.sampling),
        row(0, parents=("b",), sampling=base.sampling),
        row(0, parents=("a",), sampling={"seed": 2, "temperature": 0.5}),
        JournalRow("prompts/2", base.content, ("a",), "teacher", base.sampling),
        JournalRow("prompts/1", base.content, ("a",), "student", base.sampling),
    ]
    assert len({base.id, *(other.id for other in others)}) == 6


def test_a_batch_with_a_duplicate_is_refused_whole(path):
    with Journal(path) as opened:
        opened.append([row(0)])
        for batch in ([row(1), row(0)], [row(2), row(2)]):
            with pytest.raises(ValueError, match="already"):
                opened.append(batch)
        assert list(opened) == [row(0)]
        assert len(opened) == 1


def test_values_that_are_not_json_are_refused(path):
    with Journal(path) as opened:
        for bad in (float("nan"), {1, 2}, object()):
            with pytest.raises(ValueError):
                opened.append([JournalRow("s", {"value": bad})])
        assert path.read_bytes() == b""


def test_a_second_writer_is_refused_until_the_first_closes(path):
    with Journal(path), pytest.raises(ValueError, match="open elsewhere"):
        Journal(path)
    Journal(path).close()


@pytest.mark.parametrize("kept", [1, 20, -1, -3])
def test_a_torn_last_line_is_cut_off_and_reported(path, kept):
    with Journal(path) as opened:
        opened.append([row(0), row(1)])
    whole = path.read_bytes()
    first, torn = whole.splitlines(keepends=True)
    path.write_bytes(first + torn[:-1][:kept])
    with Journal(path) as opened:
        assert opened.recovery.torn_bytes == len(torn[:-1][:kept])
        assert list(opened) == [row(0)]
        opened.append([row(1)])
    assert path.read_bytes() == whole


def test_a_last_row_that_lost_only_its_line_end_is_kept(path):
    with Journal(path) as opened:
        opened.append([row(0), row(1)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with Journal(path) as opened:
        assert opened.recovery == journal.Recovery(2, 0, ())
        opened.append([row(2)])
        assert list(opened) == [row(0), row(1), row(2)]
    assert path.read_bytes().startswith(whole)


def damaged(line: bytes, how: str) -> bytes:
    """The line with one fault of the kind `how`."""
    value = json.loads(line)
    if how == "cut":
        return line[:30] + b"\n"
    if how == "changed":
        value["content"]["text"] = "something else"
    elif how == "no stage":
        del value["stage"]
    elif how == "unknown field":
        value["score"] = 1.0
    elif how == "a list":
        value = [value]
    elif how == "binary":
        return b"\xff\xfe\x00\n"
    return json.dumps(value).encode() + b"\n"


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("cut", "not JSON"),
        ("binary", "not JSON"),
        ("a list", "not an object but list"),
        ("changed", "does not belong to this content"),
        ("no stage", "not a row: .*stage"),
        ("unknown field", "not a row: .*score"),
    ],
)
def test_a_damaged_middle_line_is_quarantined_and_counted(path, how, reason):
    with Journal(path) as opened:
        opened.append([row(0), row(1), row(2)])
    lines = path.read_bytes().splitlines(keepends=True)
    bad = damaged(lines[1], how)
    path.write_bytes(lines[0] + bad + lines[2])
    for _ in range(2):  # opening again finds the same and writes nothing new
        with Journal(path) as opened:
            assert list(opened) == [row(0), row(2)]
            [fault] = opened.recovery.quarantined
        assert (fault.file, fault.row) == (str(path), 2)
        quarantine = path.with_name("rows.rejects.jsonl").read_text().splitlines()
        assert [json.loads(line)["row"] for line in quarantine] == [2]
        assert json.loads(quarantine[0])["reason"] == fault.reason
        assert re.search(reason, fault.reason)


def test_a_row_that_the_file_holds_twice_is_quarantined(path):
    with Journal(path) as opened:
        opened.append([row(0)])
    path.write_bytes(path.read_bytes() * 2)
    with Journal(path) as opened:
        assert list(opened) == [row(0)]
        assert "there twice" in opened.recovery.quarantined[0].reason


def test_a_batch_that_the_disk_refuses_is_taken_back(path, monkeypatch):
    with Journal(path) as opened:
        opened.append([row(0)])
        before = path.read_bytes()
        write = os.write

        def full(file: int, data: bytes) -> int:
            monkeypatch.setattr(os, "write", refuse)
            return write(file, bytes(data)[:40])

        def refuse(file: int, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            opened.append([row(1)])
        monkeypatch.undo()
        assert path.read_bytes() == before
        assert opened.append([row(1)]) == [row(1).id]
        assert list(opened) == [row(0), row(1)]


WRITER = """
import itertools, os, sys
from nemojax.io import journal

write, path = os.write, sys.argv[1]

def torn(file, data):
    # Half of the fourth batch reaches the file, then the process is killed.
    write(file, bytes(data)[: len(data) // 2])
    os.kill(os.getpid(), 9)

with journal.Journal(path) as opened:
    for batch in itertools.count():
        if batch == 3:
            os.write = torn
        rows = [
            journal.JournalRow("s", {"batch": batch, "row": i, "text": "x" * 500})
            for i in range(5)
        ]
        opened.append(rows)
        sys.stdout.write(f"{batch}\\n")
        sys.stdout.flush()
"""


def test_a_killed_process_loses_nothing_that_was_acknowledged(path):
    process = subprocess.run(
        [sys.executable, "-c", WRITER, str(path)],
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    acknowledged = [int(line) for line in process.stdout.split()]
    assert acknowledged == [0, 1, 2]
    with Journal(path) as opened:
        assert opened.recovery.torn_bytes > 0
        assert opened.recovery.quarantined == ()
        found = [(r.content["batch"], r.content["row"]) for r in opened]
        # The torn batch may have left whole rows; what is there is in order.
        whole = [(batch, i) for batch in range(4) for i in range(5)]
        assert found[:15] == whole[:15]
        assert found == whole[: len(found)]
        opened.append([row(0)])
    with Journal(path) as opened:
        assert opened.recovery == journal.Recovery(len(found) + 1, 0, ())

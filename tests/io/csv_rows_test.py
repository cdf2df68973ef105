"""Tables as csv: every record is a row, read or named."""

import csv
import gzip
import io
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemojax.data.records import MISSING
from nemojax.data.rows import formats
from nemojax.io import csv_rows, files


def write(path, content: bytes):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(path):
    """(row, value) of the good rows and (row, field, reason) of the bad ones."""
    rows = list(files.read_rows(path))
    assert files.count_rows(path) == len(rows)
    for after in range(1, len(rows) + 1):
        left = [row for row in rows if row.row > after]
        assert list(files.read_rows(path, after)) == left
    good = [(row.row, row.value) for row in rows if isinstance(row, files.Row)]
    bad = [
        (row.row, row.field, row.reason)
        for row in rows
        if isinstance(row, files.BadRow)
    ]
    return good, bad


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_the_first_row_names_the_fields_of_the_others(tmp_path, name):
    content = 'a,b\r\n1,"two, ""quoted""\nlines"\r\n\r\n,é\n'.encode()
    good, bad = read(write(tmp_path / name, content))
    quoted = {"a": "1", "b": 'two, "quoted"\nlines'}
    assert good == [(1, quoted), (2, {"a": "", "b": "é"})]
    assert bad == []


def test_a_byte_order_mark_is_passed_over(tmp_path):
    path = write(tmp_path / "rows.csv", b"\xef\xbb\xbfa,b\n1,2\n")
    assert read(path) == ([(1, {"a": "1", "b": "2"})], [])


BROKEN = [
    (b"1", "", "wrong number of cells"),
    (b"1,2,3", "", "wrong number of cells"),
    (b"1,\xff", "b", "not UTF-8"),
    (b"1,nul \x00", "b", "NUL character"),
    (b'1,"quoted" text', "", "not CSV"),
    (b"1," + b"x" * 200_000, "", "cell too long"),
]


def test_every_broken_row_is_named_and_every_good_one_survives(tmp_path):
    lines = [b"a,b"]
    for number, (line, _, _) in enumerate(BROKEN):
        lines += [b"%d,good" % number, line]
    good, bad = read(write(tmp_path / "rows.csv", b"\n".join(lines)))
    assert good == [
        (2 * number + 1, {"a": str(number), "b": "good"})
        for number in range(len(BROKEN))
    ]
    assert bad == [
        (2 * number + 2, field, reason)
        for number, (_, field, reason) in enumerate(BROKEN)
    ]


UNCLOSED = "a quote that is not closed, or comes where none can"


@pytest.mark.parametrize("rows", [2, 20_000])  # to the end, and to the cap on a cell
def test_a_quote_that_is_not_closed_takes_no_other_row_with_it(tmp_path, rows):
    lines = [b"a,b", b"1,2", b'3,"open', *[b"4,%d" % n for n in range(rows)], b'5,"6"']
    path = write(tmp_path / "rows.csv", b"\n".join(lines))
    found = list(files.read_rows(path))
    assert len(found) == files.count_rows(path) == rows + 3
    (bad,) = (row for row in found if isinstance(row, files.BadRow))
    assert (bad.row, bad.reason, bad.excerpt) == (2, UNCLOSED, '3,"open')
    assert list(files.read_rows(path, 2)) == found[2:]


def test_quotes_that_never_end_take_neither_long_nor_much(tmp_path, monkeypatch):
    """Each line closes a cell and opens the next: no row ends, whatever its cap."""
    path = write(tmp_path / "rows.csv", b"a,b\n" + b'a","""b\n' * 99)
    assert len(read(path)[1]) == 99
    monkeypatch.setattr(csv_rows, "_MAX_LINES", 9)
    assert len(read(path)[1]) == 99
    monkeypatch.setattr(csv_rows, "_MAX_AGAIN", 99)
    with pytest.raises(files.DataError, match="too many quotes that are not closed"):
        read(path)


def quoted(row):
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(row)
    return stream.getvalue().encode()


# A cell whose text begins as a row could not be told from one.
CELLS = st.text("ab \n", max_size=4).map(lambda text: f"x{text}x")


@settings(max_examples=300)
@given(
    cells=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6),
    at=st.integers(0),
    damage=st.sampled_from(
        [b"", b'"', b'x"', b"\n", b"\r", b"\xff", b"\0", b",", b'""']
    ),
    taken=st.integers(0, 2),
)
def test_damage_of_a_row_costs_no_other(tmp_path_factory, cells, at, damage, taken):
    """Whatever is put in, taken out or replaced: no good row is lost in silence."""
    rows = [quoted(row) for row in cells]
    content = b"".join(rows)
    at %= len(content)
    path = tmp_path_factory.mktemp("damage") / "rows.csv"
    path.write_bytes(b"a,b\n" + content[:at] + damage + content[at + taken :])
    found = list(files.read_rows(path))
    assert files.count_rows(path) == max(1, len(found))
    values = [tuple(row.value.values()) for row in found if isinstance(row, files.Row)]
    ends = list(itertools.accumulate(map(len, rows)))
    for cell, end, size in zip(cells, ends, map(len, rows), strict=True):
        if end <= at or end - size > at + taken:
            assert cell in values


def test_a_line_over_the_cap_is_one_bad_row(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 20)
    content = b"a,b\n1,2\n" + b"y" * 99 + b"\n3,4\n" + b"y" * 99
    good, bad = read(write(tmp_path / "rows.csv", content))
    assert [row for row, _ in good] == [1, 3]
    assert bad == [(row, "", "line longer than 10 MB") for row in (2, 4)]


def test_a_file_cut_short_keeps_the_rows_before_the_cut(tmp_path):
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(b"a\n" + b"1\n" * 9)[:-8])
    good, bad = read(path)
    assert len(good) == 9
    assert bad == [(10, "", "truncated gzip file")]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"a,b\n"])
def test_a_file_without_rows_is_empty(tmp_path, content):
    assert read(write(tmp_path / "rows.csv", content)) == ([], [(0, "", "empty file")])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a,b,a\n1,2,3", "'a' comes twice"),
        (b'"a\n1,2', "a quote that is not closed"),
        (b"\xff,b\n1,2", "not UTF-8"),
    ],
)
def test_a_file_whose_fields_have_no_names_is_refused(tmp_path, content, problem):
    path = write(tmp_path / "rows.csv", content)
    with pytest.raises(files.DataError, match=problem) as caught:
        list(files.read_rows(path))
    assert str(path) in str(caught.value)


def test_labels_and_rewards_are_read_from_cells(tmp_path):
    path = write(
        tmp_path / "labels.csv",
        b"prompt,response,helpfulness,verbosity\n7,a,4,\nq,4,-100,1.5\nq,a,,\n"
        b"q,a,much,1\nq,a,5,1\n",
    )
    quarantine = files.Quarantine()
    found = formats.read(path, quarantine, "attribute labels").records
    assert [record.labels[0] for record in found] == [4.0, MISSING]
    assert [record.labels[4] for record in found] == [MISSING, 1.5]
    assert found[0].conversation.messages[0].content == "7"
    assert quarantine.counts == {
        "no label": 1,
        "wrong type": 1,
        "label out of range": 1,
    }
    path = write(
        tmp_path / "pairs.csv",
        b"prompt,chosen,rejected,chosen_reward,rejected_reward\n"
        b"q,a,b,1,-0.5\nq,a,b,,\nq,a,b,1,\n",
    )
    found = formats.read(path, quarantine, "preference pairs").records
    texts = [found[0].chosen, found[0].prompt.messages[0].content]
    assert [type(text) for text in texts] == [str, str]
    rewards = [(pair.chosen_reward, pair.rejected_reward) for pair in found]
    assert rewards == [(1.0, -0.5), (None, None)]
    assert quarantine.rows[-1].field == "rejected_reward"


def test_choices_are_read_from_cells_of_tables_with_gaps(tmp_path):
    path = write(
        tmp_path / "strengths.csv",
        b"prompt,response_1,response_2,preference_strength\n"
        b"q,a,b,-1\nq,a,b,2.0\nq,a,b,0\nq,a,b,0.5\nq,a,b,\n",
    )
    quarantine = files.Quarantine()
    found = formats.read(path, quarantine, "preference pairs").records
    assert [pair.chosen for pair in found] == ["a", "b"]
    assert quarantine.counts == {"wrong type": 2, "tie": 1}


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)


@settings(max_examples=200)
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_what_a_spreadsheet_writes_comes_back(tmp_path_factory, rows):
    buffer = io.StringIO(newline="")
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    path = tmp_path_factory.mktemp("any") / "rows.csv"
    good, bad = read(write(path, buffer.getvalue().encode()))
    assert bad == []
    assert [tuple(value.values()) for _, value in good] == rows
    json.dumps([value for _, value in good])

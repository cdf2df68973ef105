import json

import pytest

from nemojax.io import files, json_text
from nemojax.io.quarantine import BadRow, DataError, Quarantine, Row


def bad(reason="not JSON", row=1, field=""):
    return BadRow("rows.jsonl", row, field, reason, "raw")


def filled(*rows):
    quarantine = Quarantine()
    for row in rows:
        quarantine.add(row)
    return quarantine


def test_keep_passes_good_rows_in_order_and_collects_the_others():
    rows = [Row({"n": 0}, "f", 1), bad(row=2), Row({"n": 1}, "f", 3), bad(row=4)]
    quarantine = Quarantine()
    assert list(quarantine.keep(rows)) == [rows[0], rows[2]]
    assert quarantine.rows == [rows[1], rows[3]]


def test_counts_add_up_to_the_rows_and_start_with_the_most_frequent():
    quarantine = filled(bad("tie"), *[bad()] * 3, *[bad("not UTF-8")] * 2)
    assert list(quarantine.counts.items()) == [
        ("not JSON", 3),
        ("not UTF-8", 2),
        ("tie", 1),
    ]


def test_write_gives_one_json_object_a_row_that_the_reader_reads_back(tmp_path):
    rows = [
        Row({"text": "é" * 5000}, "a.json", 3).reject("text", "wrong type"),
        BadRow("b.jsonl", 7, "", "not JSON", "line\nbreak \ufffd"),
    ]
    path = tmp_path / "quarantine.jsonl"
    assert filled(*rows).write(path) == path
    written = [row.value for row in files.read_rows(path)]
    assert [BadRow(**value) for value in written] == rows
    assert len(written[0]["excerpt"]) == json_text.MAX_RAW_CHARACTERS
    assert written[0]["excerpt"].startswith('{"text": "éé')


@pytest.mark.parametrize(("malformed", "raises"), [(5, False), (6, True)])
def test_check_stops_above_the_share_and_not_at_it(malformed, raises):
    quarantine = filled(*[bad()] * malformed)
    if raises:
        with pytest.raises(DataError):
            quarantine.check(100)
    else:
        quarantine.check(100)


def test_check_message_names_counts_reasons_and_the_first_row():
    quarantine = filled(
        bad("wrong type", row=9, field="output"), *[bad("not JSON")] * 2, bad("tie")
    )
    with pytest.raises(DataError) as caught:
        quarantine.check(10, max_share=0.25)
    message = str(caught.value)
    assert "3 of 10 rows" in message
    assert "25.0%" in message
    assert "not JSON (2), wrong type (1)" in message
    assert "rows.jsonl, row 9, field 'output': wrong type" in message
    assert "tie" not in message
    assert "\n" not in message


def test_many_rows_are_kept_in_order_and_none_leave_no_file(tmp_path):
    quarantine = filled(*[bad(row=row) for row in range(30_000)])
    assert [row.row for row in quarantine.rows] == list(range(30_000))
    quarantine.add(bad(row=30_000))
    path = tmp_path / "rejects.jsonl"
    quarantine.write(path)
    assert len(path.read_text().splitlines()) == quarantine.total == 30_001
    assert Quarantine().write(path) is None and not path.exists()


def test_the_facts_of_parts_count_as_their_rows_do():
    rows = [bad("tie"), bad(row=4), bad("not UTF-8", row=5), bad(row=6)]
    whole, parts = filled(*rows), Quarantine()
    for part in (filled(*rows[:2]), filled(*rows[2:])):
        parts.include(json.loads(json.dumps(part.facts)))
    assert parts.facts == whole.facts
    with pytest.raises(DataError, match=r"3 of 4 .* row 4: not JSON.*They are in x"):
        parts.check(4, where="x")


def test_a_quarantine_takes_the_rows_of_others():
    rows = [bad("tie"), bad(row=4), bad("not UTF-8", row=5)]
    whole, taken = filled(*rows), filled(rows[0])
    taken.extend(filled(*rows[1:]))
    taken.extend(Quarantine())
    assert (taken.rows, taken.facts) == (whole.rows, whole.facts)
    taken.add(rows[0])
    assert taken.rows == [*rows, rows[0]]


def test_check_does_not_hold_sound_rows_against_a_file():
    filled(*[bad("tie")] * 50, *[bad("tool calls")] * 50).check(100)


def test_raw_text_is_encodable_and_short_whatever_the_row_holds():
    assert json_text.raw_value({"a": "\ud800" + "x" * 9999}).encode("utf-8")
    nested = []
    for _ in range(200_000):
        nested = [nested]
    assert json_text.raw_value(nested) == ""
    raw = json_text.raw_text(b"\xff" * 9999 + b"\r\n")
    assert len(raw) == json_text.MAX_RAW_CHARACTERS
    assert json.loads(json.dumps(raw)) == raw

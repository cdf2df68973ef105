import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemojax.data.records import (
    AttributeLabels,
    Conversation,
    PreferencePair,
    Provenance,
)
from nemojax.data.rows import formats
from nemojax.io import fields, files

ALPACA = {"instruction": "q", "input": "", "output": "a"}
PAIR = {"prompt": "q", "chosen": "good", "rejected": "bad"}
LABELLED = {
    "prompt": "q",
    "response": "a",
    "helpfulness": 4,
    "correctness": 4,
    "coherence": 4,
    "complexity": 1,
    "verbosity": 1,
}
READERS = {
    "conversations": (ALPACA, Conversation),
    "preference pairs": (PAIR, PreferencePair),
    "attribute labels": (LABELLED, AttributeLabels),
}


def write(path, *rows):
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("read", READERS)
def test_each_reader_gives_its_kind_of_record(tmp_path, read):
    row, kind = READERS[read]
    path = write(tmp_path / "rows.jsonl", row, row)
    quarantine = files.Quarantine()
    result = formats.read(path, quarantine, read)
    assert [type(record) for record in result.records] == [kind, kind]
    assert (result.rows, result.bad, quarantine.rows) == (2, 0, [])


@pytest.mark.parametrize("read", READERS)
def test_a_record_knows_its_row_and_the_id_in_it(tmp_path, read):
    row, _ = READERS[read]
    rows = [row, row | {"id": 7}, row | {"id": None, "uuid": "u"}, row | {"id": [1]}]
    path = write(tmp_path / "rows.jsonl", *rows)
    found = formats.read(path, files.Quarantine(), read).records
    assert [record.id for record in found] == ["", "7", "u", ""]
    assert [record.source for record in found] == [
        Provenance(str(path), number) for number in (1, 2, 3, 4)
    ]
    assert len(set(found)) == 1


@pytest.mark.parametrize("read", READERS)
def test_a_file_of_another_kind_is_refused_with_the_known_formats(tmp_path, read):
    for other, (row, _) in READERS.items():
        if other is read:
            continue
        path = write(tmp_path / "rows.jsonl", row)
        with pytest.raises(files.DataError) as caught:
            formats.read(path, files.Quarantine(), read)
        message = str(caught.value)
        assert str(path) in message
        assert f"in the format {formats.detect(row)!r}" in message
        assert formats.detect(READERS[read][0]) in message
        assert "\n" not in message


def test_an_unknown_format_is_refused_with_its_fields(tmp_path):
    path = write(tmp_path / "rows.jsonl", {"title": "t", "body": "b"})
    with pytest.raises(
        files.DataError, match="unknown format, with the fields body, t"
    ):
        formats.read(path, files.Quarantine(), "conversations")
    assert formats.detect({"title": "t", "body": "b"}) is None


def test_good_and_bad_rows_add_up_and_the_bad_are_named(tmp_path):
    """Broken text, broken fields and skipped rows, in several files."""
    alpaca = write(
        tmp_path / "a.jsonl",
        '{"instruction": "q',  # the format is told by the first good row
        {"instruction": "no output"},
        ALPACA,
        ALPACA | {"output": " "},
        {"prompt": "another format", "response": "a"},
        ALPACA,
    )
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    sharegpt = write(
        tmp_path / "b.jsonl",
        {"conversations": turns},
        {"conversations": turns, "tools": "[{}]"},
    )
    quarantine = files.Quarantine()
    result = formats.read([alpaca, sharegpt], quarantine, "conversations")
    assert result.records == [Conversation.of("q", "a")] * 3
    assert result.rows == len(result.records) + result.bad == 8
    assert result.detected == {str(alpaca): "alpaca", str(sharegpt): "sharegpt"}
    assert [(bad.file, bad.row, bad.field, bad.reason) for bad in quarantine.rows] == [
        (str(alpaca), 1, "", "not JSON"),
        (str(alpaca), 2, "output", "missing field"),
        (str(alpaca), 4, "output", "empty response"),
        (str(alpaca), 5, "instruction", "missing field"),
        (str(sharegpt), 2, "tools", "tool calls"),
    ]
    assert [bad.malformed for bad in quarantine.rows] == [True] * 4 + [False]
    assert json.loads(quarantine.rows[1].excerpt) == {"instruction": "no output"}


def test_a_folder_is_read_file_by_file_in_the_order_of_the_names(tmp_path):
    write(tmp_path / "2.jsonl", ALPACA | {"output": "second"})
    write(tmp_path / "1.jsonl", {"prompt": "q", "response": "first"})
    result = formats.read(tmp_path, files.Quarantine(), "conversations")
    assert [record.last_response for record in result.records] == ["first", "second"]
    assert list(result.detected.values()) == ["prompt_response", "alpaca"]


def test_a_file_without_a_readable_row_has_no_format(tmp_path):
    path = write(tmp_path / "rows.jsonl", "{", "[")
    quarantine = files.Quarantine()
    result = formats.read(path, quarantine, "conversations")
    assert result.detected == {str(path): None}
    assert (result.records, result.rows, result.bad) == ([], 2, 2)
    with pytest.raises(files.DataError, match="2 of 2 rows are malformed"):
        quarantine.check(result.rows)


def test_rows_after_a_long_broken_beginning_are_counted(tmp_path):
    path = write(tmp_path / "rows.jsonl", *["{"] * 100, ALPACA)
    quarantine = files.Quarantine()
    result = formats.read(path, quarantine, "conversations")
    assert (result.rows, result.bad) == (101, 101)
    assert quarantine.counts == {"not JSON": 100, "unknown format": 1}


FIELD_NAMES = st.sampled_from(
    sorted(
        {
            name
            for entries in formats.FORMATS.values()
            for entry in entries
            for name in entry.required
        }
        | {"mask", "system", "tools", "chosen_reward", "from", "value", "role"}
    )
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(FIELD_NAMES, inner, max_size=4)
    ),
    max_leaves=12,
)


ENTRIES = [entry for entries in formats.FORMATS.values() for entry in entries]


@settings(max_examples=300)
@given(entry=st.sampled_from(ENTRIES), data=st.data())
def test_a_parser_gives_a_record_or_a_reason_whatever_the_values(entry, data):
    row = data.draw(st.dictionaries(FIELD_NAMES, VALUES, max_size=4))
    row |= {name: data.draw(VALUES) for name in entry.required}
    try:
        record = entry.parse(row)
    except fields.Reject as reject:
        assert reject.field
        assert reject.reason
    else:
        assert isinstance(record, Conversation | PreferencePair | AttributeLabels)


@given(
    rows=st.lists(st.dictionaries(FIELD_NAMES, VALUES, max_size=6), max_size=6),
    read=st.sampled_from(list(READERS)),
)
def test_rows_with_any_values_give_records_or_reasons(tmp_path_factory, rows, read):
    """A good first row sets the format, so that its parser meets the others."""
    good, kind = READERS[read]
    rows = [good] + [good | row for row in rows] + rows
    path = write(tmp_path_factory.mktemp("any") / "rows.jsonl", *rows)
    quarantine = files.Quarantine()
    result = formats.read(path, quarantine, read)
    assert result.rows == len(rows) == len(result.records) + len(quarantine.rows)
    assert result.bad == len(quarantine.rows)
    assert all(isinstance(record, kind) for record in result.records)


@pytest.mark.parametrize("read", READERS)
def test_a_file_is_read_row_by_row_in_its_own_format(tmp_path, read):
    good, kind = READERS[read]
    path = write(tmp_path / "rows.jsonl", "broken", good, {"other": 1}, good)
    assert formats.open_file(path).format == formats.detect(good)
    found = list(formats.open_file(path).rows)
    bad = [item.row for item in found if isinstance(item, files.BadRow)]
    records = [item for item in found if not isinstance(item, files.BadRow)]
    assert bad == [1, 3]
    assert [row.row for row, _ in records] == [2, 4]
    assert all(isinstance(record, kind) for _, record in records)
    # The rows passed over still decide the format.
    assert list(formats.open_file(path, 2).rows) == found[2:]


def test_a_file_in_no_format_is_refused_before_it_is_read(tmp_path):
    path = write(tmp_path / "rows.jsonl", {"colour": "red"}, {"size": 3})
    with pytest.raises(files.DataError, match=r"rows.jsonl: unknown format.*colour"):
        formats.open_file(path)


def test_without_a_readable_row_no_format_is_told_and_every_row_is_named(tmp_path):
    path = write(tmp_path / "rows.jsonl", "broken", "too")
    assert formats.open_file(path).format is None
    assert [bad.row for bad in formats.open_file(path).rows] == [1, 2]

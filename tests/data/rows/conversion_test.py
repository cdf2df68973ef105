import json

import pytest

from nemojax.data.records import Conversation
from nemojax.data.rows import conversion, formats, writers
from nemojax.io import files

PAIR = {"prompt": "q", "chosen": "good", "rejected": "bad"}
CHAT = {"prompt": "q", "completion": "a"}
LABELLED = {"prompt": "q", "response": "a", "helpfulness": 4}
TURNS = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a"},
]
LONG = {"messages": TURNS * 2}
KINDS = {
    "conversations": CHAT,
    "preference pairs": PAIR,
    "attribute labels": LABELLED,
}


def write(path, *rows):
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def convert(paths, target, out, share=0.05, **options):
    return conversion.convert(
        conversion.find(paths, target, **options), target, out, share
    )


@pytest.mark.parametrize("target", sorted(writers.TARGETS))
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_becomes_what_it_can(kind, target, tmp_path):
    """Its own layouts, and conversations if nothing is dropped in silence."""
    path, out = write(tmp_path / "in.jsonl", KINDS[kind]), tmp_path / "out.jsonl"
    layout = writers.TARGETS[target]
    own = (
        kind
        == {
            "Conversation": "conversations",
            "PreferencePair": "preference pairs",
            "AttributeLabels": "attribute labels",
        }[layout.kind.__name__]
    )
    to_conversations = layout.kind is Conversation and kind != "attribute labels"
    if not own and not to_conversations:
        with pytest.raises(files.DataError, match=rf"in\.jsonl: holds {kind}"):
            convert(path, target, out)
        assert not out.exists()
        return
    done = convert(path, target, out)
    assert (done.rows, done.written, done.reasons, done.rejects) == (1, 1, {}, None)
    assert formats.open_file(out).format == layout.format
    assert sorted(tmp_path.iterdir()) == [path, out]


def test_a_pair_gives_its_chosen_response_and_labels_go_only_if_told(tmp_path):
    pair = write(tmp_path / "pair.jsonl", PAIR)
    convert(pair, "prompt_completion", tmp_path / "1.jsonl")
    assert lines(tmp_path / "1.jsonl") == [{"prompt": "q", "completion": "good"}]
    labelled = write(tmp_path / "labelled.jsonl", LABELLED)
    with pytest.raises(files.DataError, match="--drop_labels"):
        conversion.find([pair, labelled], "messages")
    both = [pair, labelled]
    convert(both, "prompt_completion", tmp_path / "2.jsonl", drop_labels=True)
    assert [row["completion"] for row in lines(tmp_path / "2.jsonl")] == ["good", "a"]


@pytest.mark.parametrize("target", sorted(writers.TARGETS))
@pytest.mark.parametrize("field", ["id", "uuid", "prompt_id"])
def test_rows_keep_the_id_that_they_came_with(field, target, tmp_path):
    rows = [row | {field: kind} for kind, row in KINDS.items()]
    kept = 0
    for row in rows:
        path = write(tmp_path / "in.jsonl", row)
        out = tmp_path / "out.jsonl"
        try:
            convert(path, target, out, drop_labels=True)
        except files.DataError:
            continue
        assert [found["id"] for found in lines(out)] == [row[field]]
        assert [item[1].id for item in formats.open_file(out).rows] == [row[field]]
        out.unlink()
        kept += 1
    assert kept


def test_rows_that_are_not_written_are_listed_and_add_up(tmp_path):
    path = write(
        tmp_path / "in.jsonl",
        LONG,
        "{broken",
        {"messages": TURNS},
        {"messages": TURNS[:1]},
        {"messages": TURNS, "tools": "[{}]"},
    )
    out = tmp_path / "out.jsonl"
    done = convert(path, "prompt_completion", out, 0.6)
    assert done.reasons == {
        "prompt_completion cannot hold it: not one prompt and one response": 1,
        "not JSON": 1,
        "roles out of order": 1,
        "tool calls": 1,
    }
    assert done.rows == 5 == done.written + sum(done.reasons.values())
    assert lines(out) == [{"prompt": "q", "completion": "a"}]
    assert done.rejects == tmp_path / "out.rejects.jsonl"
    rejects = lines(done.rejects)
    assert [row["row"] for row in rejects] == [1, 2, 4, 5]
    assert {row["file"] for row in rejects} == {str(path)}
    assert rejects[2]["field"] == "messages"


def test_too_many_bad_rows_leave_only_their_list(tmp_path):
    path = write(tmp_path / "in.jsonl", PAIR, "{broken")
    out = tmp_path / "out.jsonl"
    with pytest.raises(files.DataError, match=r"1 of 2 rows.*out\.rejects\.jsonl"):
        convert(path, "trl", out)
    assert not out.exists()
    assert [row["row"] for row in lines(tmp_path / "out.rejects.jsonl")] == [2]
    write(path, PAIR)
    convert(path, "trl", out)
    assert sorted(tmp_path.iterdir()) == [path, out]


def test_rows_of_use_elsewhere_do_not_stop_the_work(tmp_path):
    row = {"prompt": "q", "response_1": "a", "response_2": "b"}
    strengths = (-3, 0, 0, 0, 2)
    rows = [row | {"preference_strength": strength} for strength in strengths]
    path = write(tmp_path / "in.jsonl", *rows)
    done = convert(path, "nemo_rl", tmp_path / "out.jsonl", 0.0)
    assert (done.written, done.reasons) == (2, {"tie": 3})


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    path = write(tmp_path / "in.jsonl", PAIR)
    for out, problem in [
        (path, "exists"),
        (tmp_path / "out.json", r"rows are written as \.jsonl"),
        (tmp_path / "absent" / "out.jsonl", "absent: no such folder"),
    ]:
        with pytest.raises(files.DataError, match=problem):
            convert(path, "trl", out)
    assert lines(path) == [PAIR]


def test_an_error_on_the_way_leaves_nothing(tmp_path, monkeypatch):
    path = write(tmp_path / "in.jsonl", PAIR, PAIR)
    sources = conversion.find(path, "trl")

    def fail(record, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writers, "to_row", fail)
    with pytest.raises(OSError, match="No space"):
        conversion.convert(sources, "trl", tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_without_a_readable_row_is_all_rejects(tmp_path):
    path = write(tmp_path / "in.jsonl", "{broken")
    (source,) = conversion.find(path, "trl")
    assert source.format is None
    done = conversion.convert([source], "trl", tmp_path / "out.jsonl", 1.0)
    assert (done.rows, done.written) == (1, 0)

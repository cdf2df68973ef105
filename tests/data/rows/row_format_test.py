"""Fields that change what a row says are honoured, or refuse the row by their name."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemojax.data.records import PreferencePair, conversation_of
from nemojax.data.rows import formats, row_format
from nemojax.data.rows.row_format import ROW_FIELDS, SYSTEM_FIELDS, TURN_FIELDS
from nemojax.io import fields
from tests.data.rows import attribute_formats_test as attributes
from tests.data.rows import conversation_formats_test as conversations
from tests.data.rows import preference_formats_test as preferences

ENTRIES = {entry.name: entry for kind in formats.FORMATS.values() for entry in kind}
ROWS = (
    conversations.ROWS
    | dict(preferences.ROWS)
    | {
        "helpsteer": attributes.HELPSTEER,
        "nemo_regression": attributes.NEMO
        | {"text": "<extra_id_1>User\nq\n<extra_id_1>Assistant\na\n<extra_id_2>"},
    }
)
# What fields hold that need more than a text.
VALUES = {
    "history": [["before", "then"]],
    "margin": 2.0,
    "label": False,
    "preference": "rejected",
    "chosen_reward": 2.0,
    "rejected_reward": 1.0,
}
REWARDS = {"chosen_reward", "rejected_reward"}
NOTHING = [None, "", " ", [], {}, "[]", "{}", "null", float("nan"), {"name": None}]


def outcome(entry, row):
    try:
        return entry.parse(row)
    except fields.Reject as reject:
        return reject


def test_every_format_has_a_row_here():
    assert ROWS.keys() == ENTRIES.keys()


@pytest.mark.parametrize("name", ENTRIES)
def test_what_a_field_says_is_read_or_refused_in_every_format(name):
    entry, row = ENTRIES[name], ROWS[name]
    plain = entry.parse(row)
    for field in (*ROW_FIELDS, "System", "Label ", "Weight"):
        if field in row and not fields.says_nothing(row[field]):
            continue  # of the layout itself
        found = outcome(entry, row | {field: VALUES.get(field, "something")})
        assert found != plain, field
        if isinstance(found, fields.Reject):  # one reward asks for the other
            assert {found.field, field} <= REWARDS or found.field == field
            assert found.reason
        for nothing in NOTHING:
            said = outcome(entry, row | {field: nothing})
            assert said == plain or field in (*entry.required, *entry.honours)


def changed(value, change):
    """A row of which every turn has more fields."""
    if isinstance(value, list):
        return [changed(item, change) for item in value]
    if isinstance(value, dict):
        told = {key: changed(item, change) for key, item in value.items()}
        is_turn = "from" in value or "role" in value
        return told | change if is_turn else told
    return value


TURNS = {
    name: (entry, ROWS[name])
    for name, entry in ENTRIES.items()
    if changed(ROWS[name], {"field": 1}) != ROWS[name]
}


@pytest.mark.parametrize("name", TURNS)
def test_what_a_field_of_a_turn_says_is_read_or_refused_in_every_format(name):
    entry, row = TURNS[name]
    plain = entry.parse(row)
    conditioned = {"type": "VALUE_TO_TEXT"} if name == "nemo_chat" else {}
    for field in (*TURN_FIELDS, "Weight", "Tool_calls"):
        assert outcome(entry, changed(row, {field: "0.5"}) | conditioned) != plain, (
            field
        )
        for nothing in NOTHING:
            assert entry.parse(changed(row, {field: nothing})) == plain, field


@pytest.mark.parametrize("name", ENTRIES)
def test_a_system_message_beside_the_turns_comes_before_them(name):
    entry, row = ENTRIES[name], ROWS[name]
    plain, led = entry.parse(row), entry.parse(row | {"system": "be brief"})
    for field in SYSTEM_FIELDS:
        assert entry.parse(row | {field: "be brief"}) == led
    first, *others = conversation_of(led).messages
    assert (first.role, first.content) == ("system", "be brief")
    assert tuple(others) == conversation_of(plain).messages
    if isinstance(plain, PreferencePair):
        assert dataclasses.replace(led, prompt=plain.prompt) == plain


def test_two_system_messages_have_to_say_the_same():
    entry, row = ENTRIES["messages"], ROWS["messages"]
    inside = {"messages": [{"role": "system", "content": "s"}, *row["messages"]]}
    assert entry.parse(inside | {"system": "s "}) == entry.parse(inside)
    for system in ({"system": "t"}, {"system": "s", "system_prompt": "t"}):
        found = outcome(entry, inside | system)
        assert isinstance(found, fields.Reject)
        assert found.reason == "another system message than that of the turns"


KTO = [
    {field: value}
    for field in ("label", "kto_tag")
    for value in (True, False, 0, 1, 1.0, "True", "false", "0", fields.Cell("1"))
] + [{"preference": "chosen"}, {"preference": "rejected"}]


# A text with a label is in another format than MBPP's.
@pytest.mark.parametrize("name", sorted(conversations.ROWS.keys() - {"mbpp"}))
def test_an_answer_marked_as_good_or_bad_is_never_a_demonstration(name):
    """However many rows before it have no mark: each row is looked at."""
    row = conversations.ROWS[name]
    unmarked = row | {"label": None}
    rows = [unmarked] * 200 + [row | mark for mark in KTO] + [unmarked]
    *before, after = formats.in_memory(rows, "rows").rows
    assert all(isinstance(item, tuple) for item in [*before[:200], after])
    for refused, mark in zip(before[200:], KTO, strict=True):
        assert refused.field in mark
        assert refused.reason.startswith("unpaired preference (KTO)")


@given(
    st.recursive(
        st.none() | st.floats() | st.text(max_size=3) | st.booleans(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_value_says_something_or_nothing(value):
    row_format.refuse_unread({"other": value}, ROW_FIELDS)
    if fields.says_nothing(value):
        row_format.refuse_unread({"mask": value}, ROW_FIELDS)
    else:
        with pytest.raises(fields.Reject):
            row_format.refuse_unread({"mask": value}, ROW_FIELDS)

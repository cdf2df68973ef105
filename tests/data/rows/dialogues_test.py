import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemojax.data.records import Conversation, Message
from nemojax.data.rows import dialogues, row_format
from nemojax.io import fields

USER, ASSISTANT = Message("user", "hello"), Message("assistant", "hi")
SYSTEM = Message("system", "be brief")


def sharegpt(*messages):
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return [{"from": names[turn.role], "value": turn.content} for turn in messages]


def openai(*messages):
    return [{"role": turn.role, "content": turn.content} for turn in messages]


def template(*messages):
    system = messages[0].content if messages[0].role == "system" else ""
    turns = messages[1:] if messages[0].role == "system" else messages
    return f"<extra_id_0>System\n{system}\n" + "".join(
        f"<extra_id_1>{turn.role.capitalize()}\n{turn.content}\n" for turn in turns
    )


def paragraphs(*messages):
    names = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{names[turn.role]}: {turn.content}" for turn in messages)


WRITERS = {
    "sharegpt": (sharegpt, dialogues.from_turns),
    "openai": (openai, dialogues.from_turns),
    "template": (template, dialogues.from_template),
    "paragraphs": (paragraphs, dialogues.from_paragraphs),
}

# No marker of any layout can be made of these characters.
contents = st.text("abc .,\té中", min_size=1).map(str.strip).filter(bool)


@given(
    texts=st.lists(contents, min_size=1, max_size=6),
    system=st.none() | contents,
    layout=st.sampled_from(sorted(WRITERS)),
)
def test_reading_undoes_writing(texts, system, layout):
    turns = [
        Message("assistant" if index % 2 else "user", text)
        for index, text in enumerate(texts)
    ]
    if system is not None and layout != "paragraphs":
        turns.insert(0, Message("system", system))
    write, read = WRITERS[layout]
    read_back = read(write(*turns), "field", ends_with=turns[-1].role)
    assert read_back == Conversation(tuple(turns))


OUT_OF_ORDER = [
    ([], "assistant"),
    ([ASSISTANT], "assistant"),
    ([USER], "assistant"),
    ([USER, ASSISTANT], "user"),
    ([USER, USER, ASSISTANT], "assistant"),
    ([USER, ASSISTANT, ASSISTANT], "assistant"),
]


@pytest.mark.parametrize(("messages", "ends_with"), OUT_OF_ORDER)
@pytest.mark.parametrize("layout", ["sharegpt", "openai", "paragraphs"])
def test_roles_out_of_order_are_rejected(layout, messages, ends_with):
    write, read = WRITERS[layout]
    with pytest.raises(fields.Reject) as caught:
        read(write(*messages), "turns", ends_with=ends_with)
    assert (caught.value.field, caught.value.reason) == ("turns", "roles out of order")


def test_a_system_message_comes_first_or_not_at_all():
    with pytest.raises(fields.Reject, match="roles out of order"):
        dialogues.from_turns(
            sharegpt(USER, SYSTEM, ASSISTANT), "turns", ends_with="assistant"
        )


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_system_message_is_none(empty):
    expected = Conversation((USER,))
    turns = sharegpt(Message("system", empty), USER)
    assert dialogues.from_turns(turns, "turns", ends_with="user") == expected


def test_empty_turns_are_rejected_and_an_empty_response_is_named():
    blank = Message("user", " \n")
    with pytest.raises(fields.Reject, match="empty turn"):
        dialogues.from_turns(sharegpt(blank, ASSISTANT), "t", ends_with="assistant")
    blank = Message("assistant", "")
    with pytest.raises(fields.Reject, match="empty response"):
        dialogues.from_turns(sharegpt(USER, blank), "t", ends_with="assistant")
    with pytest.raises(fields.Reject, match="empty turn"):
        dialogues.from_turns(sharegpt(USER, blank, USER), "t", ends_with="user")


BROKEN_TURNS = [
    ("text", "turns", "wrong type"),
    (["text"], "turns[0]", "wrong type"),
    ([{"value": "hello"}], "turns[0].from", "missing field"),
    ([{"from": "human"}], "turns[0].value", "missing field"),
    ([{"role": "user", "value": "hello"}], "turns[0].content", "missing field"),
    ([{"from": "human", "value": None}], "turns[0].value", "wrong type"),
    ([{"from": 3, "value": "hello"}], "turns[0].from", "wrong type"),
    ([{"from": "narrator", "value": "then"}], "turns[0].from", "unknown role"),
    ([{"from": "function_call", "value": "{}"}], "turns[0].from", "tool calls"),
    ([{"from": "observation", "value": "{}"}], "turns[0].from", "tool calls"),
    ([{"role": "tool", "content": "{}"}], "turns[0].role", "tool calls"),
    (
        [{"role": "assistant", "content": None, "tool_calls": [{}]}],
        "turns[0].tool_calls",
        "tool calls",
    ),
    ([{"role": "user", "content": [3]}], "turns[0].content[0]", "wrong type"),
    (
        [{"role": "user", "content": [{"type": "text", "text": None}]}],
        "turns[0].text",
        "wrong type",
    ),
    (
        [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
        "turns[0].content[0]",
        "a part of type 'image_url', only text is read",
    ),
    (
        [{"role": "user", "content": "x", "from": "gpt", "value": "y"}],
        "turns[0].from",
        "a turn with two roles, role and from",
    ),
    (
        [{"role": "user", "content": "x", "weight": 1}],
        "turns[0].weight",
        "only an assistant's turn can be trained",
    ),
    (
        [{"role": "assistant", "content": "x", "weight": 0.5}],
        "turns[0].weight",
        "neither 0 nor 1",
    ),
    (
        [{"role": "assistant", "content": "x", "weight": 1, "train": False}],
        "turns[0].train",
        "differs from another weight of the turn",
    ),
]


@pytest.mark.parametrize(("turns", "field", "reason"), BROKEN_TURNS)
def test_a_broken_turn_is_named_by_its_place(turns, field, reason):
    with pytest.raises(fields.Reject) as caught:
        dialogues.from_turns(turns, "turns", ends_with="assistant")
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_role_names_are_read_in_any_case():
    turns = [{"from": "User", "value": "hello"}, {"from": "Assistant", "value": "hi"}]
    read = dialogues.from_turns(turns, "turns", ends_with="assistant")
    assert read == Conversation((USER, ASSISTANT))


def test_parts_of_text_are_joined_and_nulls_of_a_table_say_nothing():
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    tables = {
        "from": None,
        "value": None,
        "tool_calls": [],
        "label": "",
        "weight": None,
    }
    turns = [
        {"role": "developer", "content": "be brief", **tables},
        {"role": "user", "content": parts, **tables},
        {"from": "gpt", "value": "hi", "role": None, "content": None},
    ]
    read = dialogues.from_turns(turns, "turns", ends_with="assistant")
    assert read == Conversation((SYSTEM, USER, ASSISTANT))


@pytest.mark.parametrize("name", row_format.TRAINING_FIELDS)
@pytest.mark.parametrize("says", [(0, 1), (0.0, 1.0), (False, True), ("false", "True")])
def test_a_turn_may_be_context_only(name, says):
    """However the weight is spelled; a user's turn is never trained."""
    no, yes = says
    turns = openai(USER, ASSISTANT, USER, ASSISTANT, USER, ASSISTANT)
    for turn, value in zip(turns, (no, no, None, yes), strict=False):
        turn[name] = value
    read = dialogues.from_turns(turns, "turns", ends_with="assistant")
    trained = [turn.trained for turn in read.messages]
    assert trained == [True, False, True, True, True, True]


TEMPLATED = [
    # A prompt ends by asking for the response; a reward input by asking for labels.
    ("<extra_id_0>System\n\n<extra_id_1>User\nhello\n<extra_id_1>Assistant\n", "user"),
    ("<extra_id_0>System\n\n<extra_id_1>User\nhello\n", "user"),
    ("hello", "user"),
    (
        "<extra_id_0>System\n\n<extra_id_1>User\nhello\n"
        "<extra_id_1>Assistant\nhi\n<extra_id_2>",
        "assistant",
    ),
    (
        "<extra_id_0>System\n\n<extra_id_1>User\nhello\n"
        "<extra_id_1>Assistant\nhi\n<extra_id_1>",
        "assistant",
    ),
    ("hello\n<extra_id_1>Assistant\nhi", "assistant"),
]


@pytest.mark.parametrize(("text", "ends_with"), TEMPLATED)
def test_the_template_is_read_with_and_without_its_closing(text, ends_with):
    expected = (USER,) if ends_with == "user" else (USER, ASSISTANT)
    read = dialogues.from_template(text, "text", ends_with=ends_with)
    assert read == Conversation(expected)


def test_dialogues_of_several_turns_may_start_without_a_header():
    """As HelpSteer2 writes its prompts."""
    text = "hello\n<extra_id_1>Assistant\nhi\n<extra_id_1>User\nhello"
    read = dialogues.from_template(text, "prompt", ends_with="user")
    assert read == Conversation((USER, ASSISTANT, USER))


def test_plain_text_is_kept_to_the_letter():
    text = "  two spaces, a newline\n"
    read = dialogues.from_template(text, "prompt", ends_with="user")
    assert read.messages[0].content == text


def test_paragraphs_need_a_speaker():
    with pytest.raises(fields.Reject, match="no dialogue"):
        dialogues.from_paragraphs("Once upon a time", "chosen", ends_with="user")

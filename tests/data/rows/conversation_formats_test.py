import pytest

from nemojax.data.records import Conversation, Message
from nemojax.data.rows import formats
from nemojax.data.rows.conversation_formats import FORMATS
from nemojax.io import fields

CHAT = [{"from": "User", "value": "q"}, {"from": "Assistant", "value": "a"}]
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]

# One row of each format; all say the same.
ROWS = {
    "nemo_chat": {"system": "", "mask": "User", "conversations": CHAT},
    "sharegpt": {"conversations": SHAREGPT, "tools": "[]"},
    "messages": {"messages": MESSAGES},
    "openmathinstruct": {"problem": "q", "generated_solution": "a", "solution": "b"},
    "math": {"problem": "q", "solution": "a", "level": "Level 1"},
    "alpaca": {"instruction": "q", "input": "", "output": "a"},
    "gsm8k": {"question": "q", "answer": "a"},
    "prompt_response": {"prompt": "q", "response": "a"},
    "prompt_completion": {"prompt": "q", "completion": "a"},
    "input_output": {"input": "q", "output": "a"},
    "mbpp": {"text": "q", "code": "a", "test_list": []},
}

SINGLE_TURN = sorted(set(ROWS) - {"nemo_chat", "sharegpt", "messages"})


def parse(row):
    return next(entry for entry in FORMATS if entry.recognises(row)).parse(row)


def rejection(row):
    with pytest.raises(fields.Reject) as caught:
        parse(row)
    return caught.value.field, caught.value.reason


def test_every_format_has_a_row_here():
    assert set(ROWS) == {entry.name for entry in FORMATS}


@pytest.mark.parametrize("name", ROWS)
def test_each_format_is_told_from_the_others(name):
    assert formats.detect(ROWS[name]) == name


@pytest.mark.parametrize("name", sorted(set(ROWS) - {"mbpp"}))
def test_all_formats_give_the_same_conversation(name):
    assert parse(ROWS[name]) == Conversation.of("q", "a")


def test_mbpp_lists_setup_and_tests_and_has_unix_lines():
    row = {
        "text": "Add two numbers.",
        "code": "def add(a, b): \r\n\treturn a + b",
        "test_setup_code": "x = 1\r\ny = 2",
        "test_list": ["assert add(1, 2) == 3", "assert add(x, y) == 3"],
    }
    conversation = parse(row)
    prompt = conversation.messages[0].content
    assert prompt.startswith("Add two numbers.\n")
    assert prompt.endswith(
        "\nx = 1\ny = 2\nassert add(1, 2) == 3\nassert add(x, y) == 3"
    )
    assert conversation.last_response == "def add(a, b): \n\treturn a + b"


def test_alpaca_appends_the_input_and_may_have_a_system_message():
    row = {"instruction": "Sort.", "input": "3 1 2", "output": "1 2 3", "system": "s"}
    assert parse(row) == Conversation.of("Sort.\n\n3 1 2", "1 2 3", "s")
    assert parse(row | {"input": None}) == Conversation.of("Sort.", "1 2 3", "s")


def test_alpaca_takes_an_input_alone_and_the_turns_before():
    row = {"instruction": "", "input": "3 1 2", "output": "a", "history": [["q", "b"]]}
    turns = parse(row).messages
    assert [turn.content for turn in turns] == ["q", "b", "3 1 2", "a"]
    assert [turn.role for turn in turns] == ["user", "assistant"] * 2
    assert parse(row | {"history": "[]"}) == Conversation.of("3 1 2", "a")
    for history, field in [
        ("q", "history"),
        (["q"], "history[0]"),
        ([["q", "b"], ["q"]], "history[1]"),
        ([["q", 3]], "history[0]"),
        ([["q", " "]], "history"),
    ]:
        assert rejection(row | {"history": history})[0] == field


def test_system_messages_come_from_beside_or_inside_the_turns():
    expected = Conversation.of("q", "a", "s")
    beside = {"conversations": SHAREGPT, "system": "s"}
    inside = {"conversations": [{"from": "system", "value": "s"}, *SHAREGPT]}
    messages = [{"role": "system", "content": "s"}, *MESSAGES]
    assert parse(beside) == parse(inside) == parse({"messages": messages}) == expected


def test_placeholders_stay_text():
    row = {"instruction": "Who?", "input": "", "output": "{{name}} of {{author}}"}
    assert parse(row).last_response == "{{name}} of {{author}}"


def test_labels_condition_answers_in_rows_of_values_to_text():
    turns = [CHAT[0], CHAT[1] | {"label": "helpfulness:4"}]
    row = ROWS["nemo_chat"] | {"conversations": turns}
    labelled = Message("assistant", "a", "helpfulness:4")
    expected = Conversation((Message("user", "q"), labelled))
    assert parse(row | {"type": "VALUE_TO_TEXT"}) == expected
    assert parse(row | {"type": None}) == parse(row) == Conversation.of("q", "a")


def test_labels_that_could_not_be_a_line_of_an_answer_are_rejected():
    row = ROWS["nemo_chat"] | {"type": "VALUE_TO_TEXT"}
    for turns, place in [
        ([CHAT[0] | {"label": "x"}, CHAT[1]], "conversations[0].label"),
        ([CHAT[0], CHAT[1] | {"label": "x\ny"}], "conversations[1].label"),
    ]:
        found = rejection(row | {"conversations": turns})
        assert found == (place, "not a line of an assistant turn")
    field, _ = rejection(ROWS["nemo_chat"] | {"type": "TEXT_TO_VALUE"})
    assert field == "type"


@pytest.mark.parametrize("mask", ["User", "System,User", "user"])
def test_masks_that_hide_the_user_are_the_usual(mask):
    assert parse(ROWS["nemo_chat"] | {"mask": mask}) == Conversation.of("q", "a")


def test_rows_that_train_on_user_turns_are_rejected():
    row = ROWS["nemo_chat"] | {"mask": "Assistant"}
    assert rejection(row) == ("mask", "user turns not masked")


@pytest.mark.parametrize("tools", ['[{"name": "search"}]', [{"name": "search"}]])
@pytest.mark.parametrize("name", ["sharegpt", "messages"])
def test_rows_that_offer_tools_are_skipped(name, tools):
    assert rejection(ROWS[name] | {"tools": tools}) == ("tools", "tool calls")


@pytest.mark.parametrize("name", ROWS)
def test_an_empty_response_is_rejected_in_every_format(name):
    def emptied(value):
        if isinstance(value, list):
            return [emptied(item) for item in value]
        if isinstance(value, dict):
            return {key: emptied(item) for key, item in value.items()}
        return " \n" if value == "a" else value

    assert rejection(emptied(ROWS[name]))[1] == "empty response"


@pytest.mark.parametrize("name", SINGLE_TURN)
def test_empty_prompts_wrong_types_and_missing_fields_are_named(name):
    entry = next(entry for entry in FORMATS if entry.name == name)
    row = ROWS[name]
    prompt_field = next(key for key, value in row.items() if value == "q")
    answer_field = next(key for key, value in row.items() if value == "a")
    for change, expected in [
        ({prompt_field: " "}, (prompt_field, "empty prompt")),
        ({prompt_field: 7}, (prompt_field, "wrong type")),
        ({answer_field: None}, (answer_field, "wrong type")),
        ({answer_field: True}, (answer_field, "wrong type")),
    ]:
        with pytest.raises(fields.Reject) as caught:
            entry.parse(row | change)
        assert (caught.value.field, caught.value.reason) == expected
    without = {key: value for key, value in row.items() if key != answer_field}
    with pytest.raises(fields.Reject) as caught:
        entry.parse(without)
    assert (caught.value.field, caught.value.reason) == (answer_field, "missing field")


def test_long_dialogues_keep_every_turn():
    turns = SHAREGPT * 3
    assert [turn.role for turn in parse({"conversations": turns}).messages] == [
        "user",
        "assistant",
    ] * 3
    assert parse({"messages": MESSAGES * 2}).messages[-1] == Message("assistant", "a")


def test_prompts_and_completions_may_be_turns():
    """The forms of TRL: texts, which stay as they are, or lists of messages."""
    turns = [{"role": "system", "content": "s"}, *MESSAGES, MESSAGES[0]]
    conversation = parse({"prompt": turns, "completion": [MESSAGES[1]]})
    assert [turn.content for turn in conversation.messages] == ["s", "q", "a", "q", "a"]
    for row in [
        {"prompt": "q", "completion": [MESSAGES[1]]},
        {"prompt": [MESSAGES[0]], "completion": "a"},
        {"prompt": [MESSAGES[0]], "completion": [MESSAGES[1]]},
    ]:
        assert formats.detect(row) == "prompt_completion"
        assert parse(row) == Conversation.of("q", "a")
    text = "q\n<extra_id_1>Assistant\nx"
    assert parse({"prompt": text, "completion": "a"}) == Conversation.of(text, "a")


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"prompt": []}, "prompt", "roles out of order"),
        ({"prompt": MESSAGES}, "prompt", "roles out of order"),
        ({"completion": []}, "completion", "empty response"),
        ({"completion": [MESSAGES[0]]}, "completion", "roles out of order"),
        ({"completion": MESSAGES}, "completion", "not one turn"),
        ({"completion": ["a"]}, "completion[0]", "wrong type"),
        (
            {"completion": [MESSAGES[1] | {"content": " "}]},
            "completion",
            "empty response",
        ),
    ],
)
def test_broken_turns_of_prompt_and_completion_are_named(change, field, reason):
    row = {"prompt": [MESSAGES[0]], "completion": [MESSAGES[1]]}
    assert rejection(row | change) == (field, reason)

import dataclasses

import pytest

from nemojax.data.records import (
    ATTRIBUTES,
    AttributeLabels,
    Conversation,
    Message,
    PreferencePair,
    Provenance,
    ToolCall,
    conversation_of,
)


def test_a_conversation_is_its_prompt_with_its_last_response():
    conversation = Conversation.of("Hi", "Hello", system="Be kind.")
    assert [message.role for message in conversation.messages] == [
        "system",
        "user",
        "assistant",
    ]
    assert conversation.prompt == Conversation.of("Hi", system="Be kind.")
    assert conversation.prompt.prompt == conversation.prompt
    assert conversation.last_response == "Hello"
    assert conversation.prompt.with_response("Hello") == conversation


def test_no_system_text_is_no_system_message():
    assert Conversation.of("Hi").messages == (Message("user", "Hi"),)


def test_an_empty_response_is_a_response():
    assert Conversation.of("Hi", "").last_response == ""


def test_a_prompt_has_no_last_response():
    with pytest.raises(ValueError, match="does not end with an assistant turn"):
        _ = Conversation.of("Hi").last_response


def test_an_unknown_role_is_named():
    with pytest.raises(ValueError, match="'critic' is none of system, user, assist"):
        Message("critic", "x")


def test_an_assistant_calls_tools_and_a_tool_answers():
    call = ToolCall("weather", '{"city": "Bern"}', id="1")
    assert Message("assistant", "", tool_calls=(call,)).tool_calls == (call,)
    with pytest.raises(ValueError, match="tool calls of role 'user'"):
        Message("user", "", tool_calls=(call,))
    with pytest.raises(ValueError, match="tool_call_id of role 'assistant'"):
        Message("assistant", "", tool_call_id="1")


def test_records_that_say_the_same_are_equal_wherever_they_come_from():
    plain = Conversation.of("Hi", "Hello")
    source = Provenance("rows.jsonl", 3, parents=("a", "b"))
    named = dataclasses.replace(plain, id="c", source=source)
    assert named == plain and hash(named) == hash(plain)
    assert (named.prompt.id, named.prompt.source) == ("c", source)
    assert named.prompt.with_response("Hello").source == source
    assert dataclasses.replace(plain, tools=('{"name": "weather"}',)) != plain


def test_every_record_is_about_a_conversation():
    talk = Conversation.of("Hi", "Hello")
    pair = PreferencePair(talk.prompt, "a", "b")
    for record in (talk, pair, AttributeLabels(talk, (1.0,) * 5)):
        assert conversation_of(record).opening == "Hi"
    assert conversation_of(pair) == talk.prompt


@pytest.mark.parametrize("count", [4, 9])
def test_every_attribute_needs_a_label(count):
    with pytest.raises(ValueError, match=f"{count} labels for the 5 attributes"):
        AttributeLabels(Conversation.of("Hi", "Hello"), (1.0,) * count)
    assert len(ATTRIBUTES) == 5

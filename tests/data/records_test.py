import pytest

from nemojax.data.records import (
    ATTRIBUTES,
    AttributeLabels,
    Conversation,
    Message,
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
    with pytest.raises(ValueError, match="'tool' is none of system, user, assistant"):
        Message("tool", "x")


@pytest.mark.parametrize("count", [4, 9])
def test_every_attribute_needs_a_label(count):
    with pytest.raises(ValueError, match=f"{count} labels for the 5 attributes"):
        AttributeLabels(Conversation.of("Hi", "Hello"), (1.0,) * count)
    assert len(ATTRIBUTES) == 5

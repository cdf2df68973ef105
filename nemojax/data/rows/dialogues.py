"""Conversations from the ways in which dialogues are written down.

Lists of turns (`from` and `value`, or `role` and `content`), text in the Nemotron
template (`<extra_id_1>User`), and text with `Human:` and `Assistant:` paragraphs. All
give a conversation with an optional system message first, then user and assistant
turns in alternation, none of them empty; anything else raises `fields.Reject`.
"""

import re
from typing import Any

from nemojax.data.records import Conversation, Message, Role
from nemojax.data.rows import row_format
from nemojax.io import fields

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
_TOOL_ROLES = frozenset({"function", "function_call", "observation", "tool"})
_TEMPLATE_TURN = re.compile(r"<extra_id_1>(User|Assistant)\n")
_PARAGRAPH_TURN = re.compile(r"\n\n(Human|Assistant):")


def from_turns(
    turns: Any, field: str, *, ends_with: Role, labels: bool | None = None
) -> Conversation:
    """Makes the conversation of a list of turns.

    Args:
      turns: objects with `from` and `value`, or with `role` and `content`, which is
        text or a list of parts that are.
      field: name of the row's field, for messages.
      ends_with: role of the last turn, "user" for a prompt.
      labels: whether the `label` of an assistant's turn, the attribute values that it
        was written to, is kept; None: refused.

    Raises:
      fields.Reject: also where tools are called, which no message can represent.
    """
    if not isinstance(turns, list):
        raise fields.Reject(field, "wrong type")
    messages = [
        _message(turn, f"{field}[{index}]", labels) for index, turn in enumerate(turns)
    ]
    # An empty system message says nothing: published rows often carry one.
    if messages and messages[0].role == "system" and not messages[0].content.strip():
        messages = messages[1:]
    return _checked(messages, field, ends_with)


def answer(turns: Any, field: str) -> str:
    """Returns the text of one assistant turn, which may be alone in a list.

    Raises:
      fields.Reject: it is not one assistant turn with text.
    """
    if isinstance(turns, list):
        if len(turns) != 1:
            raise fields.Reject(field, "not one turn" if turns else "empty response")
        message = _message(turns[0], f"{field}[0]")
    else:
        message = _message(turns, field)
    if message.role != "assistant":
        raise fields.Reject(field, "roles out of order")
    return trained_text(message, field)


def trained_text(message: Message, field: str) -> str:
    """Returns the text of an answer that is compared or completes a prompt.

    Raises:
      fields.Reject: it is empty, or marked as not trained.
    """
    if not message.content.strip():
        raise fields.Reject(field, "empty response")
    if not message.trained:
        raise fields.Reject(field, "an answer with weight 0")
    return message.content


def from_instruction(row: fields.Fields) -> Conversation:
    """Makes a prompt of Alpaca's fields `instruction`, `input` and `history`.

    Either of the first two may be empty. The history is a list of pairs: what a user
    said, and the answer.
    """
    texts = [fields.optional_text(row, name) for name in ("instruction", "input")]
    told = [text for text in texts if text.strip()] or [
        fields.prompt(row, "instruction")
    ]
    history = row.get("history")
    history = [] if fields.says_nothing(history) else history
    if not isinstance(history, list):
        raise fields.Reject("history", "wrong type")
    messages = []
    for index, pair in enumerate(history):
        field = f"history[{index}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise fields.Reject(field, "not a pair of texts")
        for role, text in zip(("user", "assistant"), pair, strict=True):
            messages.append(Message(role, _content(text, field)))
    messages.append(Message("user", "\n\n".join(told)))
    return _checked(messages, "history", "user")


def _message(turn: Any, field: str, labels: bool | None = None) -> Message:
    if not isinstance(turn, dict):
        raise fields.Reject(field, "wrong type")
    try:
        role_name, text_name = _names(turn)
        name = fields.text(turn, role_name).lower()
        if name in _TOOL_ROLES:
            raise fields.Reject(role_name, "tool calls")
        if name not in _ROLES:
            raise fields.Reject(role_name, "unknown role")
        role = _ROLES[name]
        row_format.refuse_unread(
            turn,
            row_format.TURN_FIELDS,
            row_format.TRAINING_FIELDS + (() if labels is None else ("label",)),
        )
        label = fields.optional_text(turn, "label") if labels else ""
        if label and (role != "assistant" or "\n" in label):
            raise fields.Reject("label", "not a line of an assistant turn")
        content = _content(fields.present(turn, text_name), text_name)
        trained = row_format.is_trained(turn, role == "assistant")
        return Message(role, content, label, trained=trained)
    except fields.Reject as reject:
        raise fields.Reject(f"{field}.{reject.field}", reject.reason) from None


def _names(turn: fields.Fields) -> tuple[str, str]:
    """Returns the names of a turn's role and text; a table may have both, one null."""
    names = ("role", "content"), ("from", "value")
    told = [pair for pair in names if turn.get(pair[0]) is not None]
    if len(told) > 1:
        raise fields.Reject("from", "a turn with two roles, role and from")
    return told[0] if told else names["role" not in turn]


def _content(value: Any, field: str) -> str:
    """Returns the text of a turn, or that of its parts, joined."""
    if not isinstance(value, list):
        return fields.text({field: value}, field)
    texts = []
    for index, part in enumerate(value):
        name = f"{field}[{index}]"
        if not isinstance(part, dict):
            raise fields.Reject(name, "wrong type")
        if part.get("type") != "text":
            kind = str(part.get("type"))[:40]
            raise fields.Reject(name, f"a part of type {kind!r}, only text is read")
        texts.append(fields.text(part, "text"))
    return "".join(texts)


def from_template(text: str, field: str, *, ends_with: Role) -> Conversation:
    """Parses a text in the Nemotron template.

    Leading text before the first `<extra_id_1>` is the system message where it starts
    with `<extra_id_0>System`, else the first user turn (as HelpSteer2 writes dialogues
    of several turns). A text without markers is a single user turn. The empty turn
    that asks for a response, and a closing `<extra_id_1>` or `<extra_id_2>`, count as
    none.
    """
    if "<extra_id_" not in text:
        return _checked([Message("user", text)], field, ends_with)
    for closing in ("<extra_id_1>", "<extra_id_2>"):
        text = text.removesuffix(closing)
    first, *rest = _TEMPLATE_TURN.split(text)
    messages = []
    if first.startswith("<extra_id_0>System\n"):
        system = first.removeprefix("<extra_id_0>System\n").removesuffix("\n")
        messages += [Message("system", system)] if system.strip() else []
    elif first:
        messages.append(Message("user", first.removesuffix("\n")))
    for role, content in zip(rest[::2], rest[1::2], strict=True):
        messages.append(Message(_ROLES[role.lower()], content.removesuffix("\n")))
    if ends_with == "user" and rest[-2:] == ["Assistant", ""]:
        messages.pop()
    return _checked(messages, field, ends_with)


def from_paragraphs(text: str, field: str, *, ends_with: Role) -> Conversation:
    """Parses a text with paragraphs that start with Human: or Assistant:."""
    first, *rest = _PARAGRAPH_TURN.split(text)
    if first.strip():
        raise fields.Reject(field, "no dialogue")
    messages = [
        Message("user" if speaker == "Human" else "assistant", content.strip())
        for speaker, content in zip(rest[::2], rest[1::2], strict=True)
    ]
    return _checked(messages, field, ends_with)


def _checked(messages: list[Message], field: str, ends_with: Role) -> Conversation:
    roles = [message.role for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    alternate = all(
        role == ("user", "assistant")[index % 2] for index, role in enumerate(turns)
    )
    if not alternate or turns[-1:] != [ends_with]:
        raise fields.Reject(field, "roles out of order")
    for index, message in enumerate(messages):
        if not message.content.strip():
            is_response = index == len(messages) - 1 and ends_with == "assistant"
            raise fields.Reject(
                field, "empty response" if is_response else "empty turn"
            )
    return Conversation(tuple(messages))

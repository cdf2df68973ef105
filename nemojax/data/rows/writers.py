"""Rows of published layouts from records: the reverse of the readers.

Every row is read again before it is given out. A record that its layout cannot hold,
or whose row would be read as something else, raises ValueError with a short reason:
nothing is dropped and no text becomes a turn in silence. The one exception is the
system message of reward models, which every text for NeMo's regression has: it is
written there where a conversation has none, and not written to HelpSteer rows.

Layouts are lists of messages wherever the tools that read them take those. Where turns
are templated into one text, no message may hold `<extra_id_`, by which it could forge
a turn.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from nemojax.data.records import (
    ATTRIBUTES,
    MISSING,
    UNTRAINED,
    AnyRecord,
    AttributeLabels,
    Conversation,
    Message,
    PreferencePair,
    conversation_of,
)
from nemojax.data.rows import (
    attribute_formats,
    conversation_formats,
    preference_formats,
)
from nemojax.data.text.nemotron_template import REWARD_SYSTEM
from nemojax.io import fields
from nemojax.io.fields import Fields

_OTHER_ATTRIBUTES = len(UNTRAINED)


@dataclasses.dataclass(frozen=True)
class Target:
    """A layout that is written.

    Attributes:
      kind: kind of the records.
      format: the name under which the readers know it.
      write: function that gives the row of a record, or raises ValueError.
      stored: the record as the row holds it, where that is not the record itself.
    """

    kind: type[AnyRecord]
    format: str
    write: Callable[[Any], Fields]
    stored: Callable[[Any], AnyRecord] = lambda record: record


def to_row(record: AnyRecord, target: str) -> Fields:
    """Returns the JSON object of a record in a layout.

    Args:
      record: record of the kind that the layout holds.
      target: one of `TARGETS`.

    Raises:
      ValueError: the layout cannot hold the record; the message is a short reason.
      TypeError: the layout is for another kind of records.
    """
    layout = TARGETS[target]
    if not isinstance(record, layout.kind):
        raise TypeError(
            f"{target} holds {layout.kind.__name__}, not {type(record).__name__}"
        )
    dialogue = conversation_of(record)
    if dialogue.tools or any(
        turn.role == "tool" or turn.tool_calls for turn in dialogue.messages
    ):
        raise ValueError("tool calls")
    row = layout.write(record)
    try:
        found = _PARSERS[layout.format](row)
    except fields.Reject as reject:
        raise ValueError(reject.reason) from None
    if found != layout.stored(record):
        raise ValueError("would be read as another record")
    return {"id": record.id, **row} if record.id else row


def _turns(messages: tuple[Message, ...]) -> list[Fields]:
    """Returns messages as OpenAI and TRL write them."""
    _require_unlabelled(messages)
    return [
        {"role": turn.role, "content": turn.content}
        | ({} if turn.trained else {"weight": 0})
        for turn in messages
    ]


def _require_unlabelled(messages: tuple[Message, ...]) -> None:
    if any(turn.label for turn in messages):
        raise ValueError("labels of turns")


def _answer(text: str) -> Fields:
    return {"role": "assistant", "content": text}


def _messages(record: Conversation) -> Fields:
    return {"messages": _turns(record.messages)}


def _nemo_chat(record: Conversation) -> Fields:
    system, turns = _split(record)
    return {
        "system": system,
        "conversations": [
            {
                "from": turn.role.capitalize(),
                "value": turn.content,
                "label": turn.label or None,
            }
            for turn in turns
        ],
        "mask": "User",
        "type": "VALUE_TO_TEXT" if any(turn.label for turn in turns) else None,
    }


def _prompt_completion(record: Conversation) -> Fields:
    system, turns = _split(record)
    _require_unlabelled(turns)
    if system:
        raise ValueError("a system message")
    if [turn.role for turn in turns] != ["user", "assistant"]:
        raise ValueError("not one prompt and one response")
    return {"prompt": turns[0].content, "completion": turns[1].content}


def _sharegpt(record: Conversation) -> Fields:
    _require_unlabelled(record.messages)
    speakers = {"system": "system", "user": "human", "assistant": "gpt"}
    return {
        "conversations": [
            {"from": speakers[turn.role], "value": turn.content}
            for turn in record.messages
        ]
    }


def _split(record: Conversation) -> tuple[str, tuple[Message, ...]]:
    """Returns the system message, "" for none, and the turns."""
    if record.messages and record.messages[0].role == "system":
        return record.messages[0].content, record.messages[1:]
    return "", record.messages


def _numbers(pair: PreferencePair) -> Fields:
    """Returns the rewards and the margin that there are.

    The check finds one reward without the other.
    """
    found = {
        "chosen_reward": pair.chosen_reward,
        "rejected_reward": pair.rejected_reward,
        "margin": pair.margin,
    }
    return {name: value for name, value in found.items() if value is not None}


def _trl(pair: PreferencePair) -> Fields:
    return {
        "prompt": _turns(pair.prompt.messages),
        "chosen": [_answer(pair.chosen)],
        "rejected": [_answer(pair.rejected)],
        **_numbers(pair),
    }


def _nemo_aligner(pair: PreferencePair) -> Fields:
    return {
        "prompt": _turns(pair.prompt.messages),
        "chosen_response": _answer(pair.chosen),
        "rejected_response": _answer(pair.rejected),
        **_numbers(pair),
    }


def _nemo_rl(pair: PreferencePair) -> Fields:
    sides = (
        (pair.chosen, pair.chosen_reward),
        (pair.rejected, pair.rejected_reward),
    )
    return {
        "context": _turns(pair.prompt.messages),
        "completions": [
            {"rank": rank, "completion": [_answer(text)]}
            | ({} if reward is None else {"reward": reward})
            for rank, (text, reward) in enumerate(sides)
        ],
    } | ({} if pair.margin is None else {"margin": pair.margin})


def _openrlhf(pair: PreferencePair) -> Fields:
    prompt = _turns(pair.prompt.messages)
    return {
        "chosen": [*prompt, _answer(pair.chosen)],
        "rejected": [*prompt, _answer(pair.rejected)],
        **_numbers(pair),
    }


def _helpsteer(record: AttributeLabels) -> Fields:
    """Writes a pair; several turns go into the prompt as HelpSteer2 writes them."""
    system, turns = _split(_without_reward_system(record).conversation)
    if system:
        raise ValueError("a system message")
    if not turns or turns[-1].role != "assistant":
        raise ValueError("roles out of order")
    _require_no_markers(record.conversation)
    first, *others = turns[:-1] or turns
    prompt = "\n".join([first.content, *map(_templated, others)])
    if others and prompt.endswith("\n"):
        prompt += "\n"  # for the one that readers of templated text take away
    labels = zip(ATTRIBUTES, record.labels, strict=True)
    return {
        "prompt": prompt,
        "response": turns[-1].content,
        **{name: None if label == MISSING else _short(label) for name, label in labels},
    }


def _nemo_regression(record: AttributeLabels) -> Fields:
    """Writes nine labels; adds the reward models' system message if absent."""
    stored = _with_reward_system(record)
    _require_no_markers(stored.conversation)
    system, turns = _split(stored.conversation)
    parts = [f"<extra_id_0>System\n{system}", *map(_templated, turns), "<extra_id_2>"]
    unlabelled = [MISSING] * _OTHER_ATTRIBUTES
    return {
        "text": "\n".join(parts),
        "label": [_short(label) for label in (*unlabelled, *record.labels)],
    }


def _with_reward_system(record: AttributeLabels) -> AttributeLabels:
    system, turns = _split(record.conversation)
    if system:
        return record
    messages = (Message("system", REWARD_SYSTEM), *turns)
    return AttributeLabels(Conversation(messages), record.labels)


def _without_reward_system(record: AttributeLabels) -> AttributeLabels:
    system, turns = _split(record.conversation)
    if system != REWARD_SYSTEM:
        return record
    return AttributeLabels(Conversation(turns), record.labels)


def _templated(turn: Message) -> str:
    return f"<extra_id_1>{turn.role.capitalize()}\n{turn.content}"


def _require_no_markers(conversation: Conversation) -> None:
    _require_unlabelled(conversation.messages)
    if any("<extra_id_" in turn.content for turn in conversation.messages):
        raise ValueError("text holds <extra_id_, the mark of a turn")


def _short(label: float) -> float | int:
    return int(label) if float(label).is_integer() else label


TARGETS: dict[str, Target] = {
    "messages": Target(Conversation, "messages", _messages),
    "nemo_chat": Target(Conversation, "nemo_chat", _nemo_chat),
    "prompt_completion": Target(Conversation, "prompt_completion", _prompt_completion),
    "sharegpt": Target(Conversation, "sharegpt", _sharegpt),
    "trl": Target(PreferencePair, "prompt_chosen_rejected", _trl),
    "nemo_aligner": Target(PreferencePair, "nemo_aligner", _nemo_aligner),
    "nemo_rl": Target(PreferencePair, "nemo_rl", _nemo_rl),
    "openrlhf": Target(PreferencePair, "whole_dialogues", _openrlhf),
    "helpsteer": Target(
        AttributeLabels, "helpsteer", _helpsteer, _without_reward_system
    ),
    "nemo_regression": Target(
        AttributeLabels, "nemo_regression", _nemo_regression, _with_reward_system
    ),
}
_PARSERS = {
    entry.name: entry.parse
    for kind in (preference_formats, attribute_formats, conversation_formats)
    for entry in kind.FORMATS
}

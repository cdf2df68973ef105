"""Formats of rows, and the fields that change what a row says.

`ROW_FIELDS` and `TURN_FIELDS` list them as published data has them. A format names
those that it reads. Any other that says something rejects the row by its name: if it
were passed over, the row would be trained as what it is not. A system message beside
the turns is read in every format.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping

from nemojax.data.records import AnyRecord, Conversation, Message, PreferencePair
from nemojax.io import fields
from nemojax.io.fields import Fields

SYSTEM_FIELDS = ("system", "system_prompt", "system_message")

# Whether a turn is trained: 0 or 1, in the spellings of `fields.truth`.
TRAINING_FIELDS = ("weight", "train", "training", "trainable", "loss")


def _table(*groups: tuple[str, str]) -> dict[str, str]:
    """Returns the reason by field, given names and reason of each group."""
    return {name: reason for names, reason in groups for name in names.split()}


_MASKS = (
    "mask masks loss_mask loss_scale",
    "part of the loss, not read in this format",
)
_MEDIA = (
    "image images video videos audio audios",
    "images or sound, which are not read",
)
_TOOLS = ("tools functions function_call tool_calls", "tool calls")

# Reasons for which a row with such a field, in any case, is refused.
ROW_FIELDS = _table(
    (" ".join(SYSTEM_FIELDS), "system message; name the field in small letters"),
    (
        "label kto_tag preference",
        "unpaired preference (KTO): marks an answer as good or bad, which is not "
        "read in this format",
    ),
    (
        "rejected rejected_response rejected_messages",
        "a worse answer, not read in this format",
    ),
    (
        "chosen_reward rejected_reward margin",
        "value of a preference, not read in this format",
    ),
    (
        "history context documents passage input choices options",
        "part of the prompt, not read in this format",
    ),
    ("chat_template_kwargs", "settings of a chat template, which are not read"),
    (" ".join(TRAINING_FIELDS), "not 1, the only weight that a whole row can have"),
    _MASKS,
    _MEDIA,
    _TOOLS,
)
TURN_FIELDS = _table(
    ("label", "label of a turn, not read in this format"),
    (
        "reasoning reasoning_content thinking",
        "reasoning beside the text of a turn, which is not read",
    ),
    ("train_detail", _MASKS[1]),
    (
        " ".join(TRAINING_FIELDS),
        "weight of a turn; name the field in small letters",
    ),
    _MASKS,
    _MEDIA,
    _TOOLS,
)


def refuse_unread(
    row: Fields, table: Mapping[str, str], reads: Collection[str] = ()
) -> None:
    """Rejects a row or a turn with a field of a table that says something.

    Args:
      row: row or turn.
      table: `ROW_FIELDS` or `TURN_FIELDS`.
      reads: fields of the table that are read.

    Raises:
      fields.Reject: there is such a field, besides those that are read.
    """
    for name, value in row.items():
        known = name.strip().lower()
        if known not in table or name in reads or fields.says_nothing(value):
            continue
        if not (known in TRAINING_FIELDS and fields.truth(value)):
            raise fields.Reject(name, table[known])


@dataclasses.dataclass(frozen=True)
class Format:
    """Recogniser and reader of the rows of one published layout.

    Attributes:
      name: short name, shown to the user.
      required: fields whose presence tells this format.
      read: function that gives the record of a row, or raises `fields.Reject`.
      any_of: fields of which one at least must be there; () for none.
      matches: further condition where the fields alone do not tell.
      honours: further fields of `ROW_FIELDS` that `read` does not pass over.
    """

    name: str
    required: tuple[str, ...]
    read: Callable[[Fields], AnyRecord]
    any_of: tuple[str, ...] = ()
    matches: Callable[[Fields], bool] = lambda row: True
    honours: tuple[str, ...] = ()

    def recognises(self, row: Fields) -> bool:
        """Returns whether the row has this format's fields."""
        if not all(name in row for name in self.required):
            return False
        if self.any_of and not any(name in row for name in self.any_of):
            return False
        return self.matches(row)

    def parse(self, row: Fields) -> AnyRecord:
        """Returns the record of a row.

        Raises:
          fields.Reject: the row gives none, or says more than the format reads.
        """
        reads = self.required + self.honours + SYSTEM_FIELDS
        refuse_unread(row, ROW_FIELDS, reads)
        record = self.read(row)
        for name in SYSTEM_FIELDS:
            if not fields.says_nothing(row.get(name)):
                record = _with_system(record, fields.text(row, name), name)
        return record

    def __str__(self) -> str:
        """Returns name and fields, for messages."""
        listed = ", ".join(self.required)
        if self.any_of:
            listed += f", one of {' '.join(self.any_of)}"
        return f"{self.name} ({listed})"


def _with_system(record: AnyRecord, system: str, field: str) -> AnyRecord:
    """Returns a record whose conversation begins with the system message of a field."""
    if not isinstance(record, Conversation):
        part = "prompt" if isinstance(record, PreferencePair) else "conversation"
        inner = _with_system(getattr(record, part), system, field)
        return dataclasses.replace(record, **{part: inner})
    first = record.messages[0]
    if first.role != "system":
        messages = (Message("system", system), *record.messages)
        return dataclasses.replace(record, messages=messages)
    if first.content.strip() != system.strip():
        raise fields.Reject(field, "another system message than that of the turns")
    return record


def is_trained(turn: Fields, is_answer: bool) -> bool:
    """Returns whether an answer is trained where its conversation is; True for others.

    Args:
      turn: turn, perhaps with one of `TRAINING_FIELDS`.
      is_answer: whether it is an assistant's; no other is trained.

    Raises:
      fields.Reject: a weight that is neither 0 nor 1, two that differ, or another turn
        that is to be trained.
    """
    trained = None
    for name in TRAINING_FIELDS:
        if name not in turn or fields.says_nothing(turn[name]):
            continue
        value = fields.truth(turn[name])
        if value is None:
            raise fields.Reject(name, "neither 0 nor 1")
        if trained not in (None, value):
            raise fields.Reject(name, "differs from another weight of the turn")
        if value and not is_answer:
            raise fields.Reject(name, "only an assistant's turn can be trained")
        trained = value
    return trained is not False or not is_answer

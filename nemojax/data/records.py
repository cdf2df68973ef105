"""The records that all stages exchange: conversations, preference pairs, labels."""

import dataclasses
from typing import Literal, Self, get_args

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)

# HelpSteer2's attributes, each annotated from 0 to 4, in the order in which the
# reward model predicts them.
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
# The four that come before them in NVIDIA's released reward models, untrained.
UNTRAINED = ("quality", "toxicity", "humor", "creativity")
# The label of an attribute that nobody annotated.
MISSING = -100.0


def attribute_names(count: int) -> tuple[str, ...]:
    """Returns the names of a reward model's attributes.

    They are `ATTRIBUTES`, NVIDIA's nine, or numbers where `count` is another.
    """
    for names in (ATTRIBUTES, UNTRAINED + ATTRIBUTES):
        if count == len(names):
            return names
    return tuple(f"attribute_{index}" for index in range(count))


@dataclasses.dataclass(frozen=True, slots=True)
class Provenance:
    """The place that a record comes from.

    Attributes:
      file: name of the file.
      row: number of its row, as `io.files.Row` counts.
      parents: ids of the records that it was made of.
    """

    file: str = ""
    row: int = 0
    parents: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool by an assistant.

    Attributes:
      name: name of the tool.
      arguments: a JSON object, as text.
      id: id by which the result names the call; empty: none.
    """

    name: str
    arguments: str
    id: str = ""


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
      role: who speaks.
      content: text of the turn; of a tool its result.
      label: attribute values that an assistant's turn was written to, as in
        "helpfulness:4,verbosity:1" (SteerLM); empty: none.
      tool_calls: calls of tools by an assistant's turn.
      tool_call_id: id of the call that a tool's turn answers; empty: unknown.
      name: name of the tool whose turn it is; empty: unknown.
      trained: whether an assistant's turn is trained where its conversation is;
        otherwise it is only context.

    Raises:
      ValueError: the role is unknown, or not one that calls or answers.
    """

    role: Role
    content: str
    label: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    trained: bool = True

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(f"role {self.role!r} is none of {', '.join(ROLES)}")
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"tool calls of role {self.role!r}")
        if self.tool_call_id and self.role != "tool":
            raise ValueError(f"tool_call_id of role {self.role!r}")


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Messages in order: an optional system message, then user and assistant turns.

    The order of the roles is checked where it matters, by the chat template. Of this
    and the other records, `id` and `source` take no part in comparison and hash: two
    records are equal if they say the same.

    Attributes:
      messages: messages in order.
      tools: definitions of the tools that are offered, each a JSON object as text.
      id: id of the conversation's row; empty: none.
      source: origin of the conversation.
    """

    messages: tuple[Message, ...]
    tools: tuple[str, ...] = ()
    id: str = dataclasses.field(default="", compare=False)
    source: Provenance | None = dataclasses.field(default=None, compare=False)

    @classmethod
    def of(cls, prompt: str, response: str | None = None, system: str = "") -> Self:
        """Returns the single-turn conversation of a prompt and maybe a response."""
        messages = [Message("system", system)] if system else []
        messages.append(Message("user", prompt))
        if response is not None:
            messages.append(Message("assistant", response))
        return cls(tuple(messages))

    @property
    def prompt(self) -> "Conversation":
        """The conversation without its last assistant turn, if it ends with one."""
        if self.messages and self.messages[-1].role == "assistant":
            return dataclasses.replace(self, messages=self.messages[:-1])
        return self

    @property
    def last_response(self) -> str:
        """The text of the assistant turn that ends the conversation.

        Raises:
          ValueError: if the conversation does not end with an assistant turn.
        """
        if not self.messages or self.messages[-1].role != "assistant":
            raise ValueError("the conversation does not end with an assistant turn")
        return self.messages[-1].content

    @property
    def opening(self) -> str:
        """The first turn of a user, "" without one; rows are held out by it."""
        first = (turn.content for turn in self.messages if turn.role == "user")
        return next(first, "").strip()

    def with_response(self, response: str) -> "Conversation":
        """Returns the conversation with one more assistant turn."""
        answer = Message("assistant", response)
        return dataclasses.replace(self, messages=(*self.messages, answer))


@dataclasses.dataclass(frozen=True)
class PreferencePair:
    """Two responses to one prompt, the first preferred, maybe with their rewards.

    The rewards are those of the ground truth or of a reward model, on its own scale;
    RPO needs them, DPO does not. The margin is by how much the first is better, 0 or
    more: what annotators said (1 to 3 in HelpSteer), or a difference of ratings. The
    attributes are those of a reward model or of annotators, in its order.
    """

    prompt: Conversation
    chosen: str
    rejected: str
    chosen_reward: float | None = None
    rejected_reward: float | None = None
    margin: float | None = None
    chosen_attributes: tuple[float, ...] | None = None
    rejected_attributes: tuple[float, ...] | None = None
    id: str = dataclasses.field(default="", compare=False)
    source: Provenance | None = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(frozen=True)
class AttributeLabels:
    """Labels (0 to 4) of a conversation's last response, in the order `ATTRIBUTES`.

    Raises:
      ValueError: if there is not one label for each attribute.
    """

    conversation: Conversation
    labels: tuple[float, ...]
    id: str = dataclasses.field(default="", compare=False)
    source: Provenance | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self):
        if len(self.labels) != len(ATTRIBUTES):
            raise ValueError(
                f"{len(self.labels)} labels for the {len(ATTRIBUTES)} attributes "
                f"{', '.join(ATTRIBUTES)}; mark a missing one by {MISSING}"
            )


AnyRecord = Conversation | PreferencePair | AttributeLabels


def conversation_of(record: AnyRecord) -> Conversation:
    """Returns the conversation that a record is about, of a pair its prompt."""
    if isinstance(record, PreferencePair):
        return record.prompt
    return record.conversation if isinstance(record, AttributeLabels) else record

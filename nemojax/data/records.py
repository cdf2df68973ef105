"""The records that all stages exchange: conversations, preference pairs, labels."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, Self, get_args

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)

# HelpSteer2's attributes, each annotated from 0 to 4, in the order in which the
# reward model predicts them.
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
# The four that come before them in NVIDIA's released reward models, untrained.
UNTRAINED = ("quality", "toxicity", "humor", "creativity")
# The label of an attribute that nobody annotated.
MISSING = -100.0


def attribute_names(count: int) -> tuple[str, ...]:
    """Names of a reward model's attributes: `ATTRIBUTES`, NVIDIA's nine, or numbers."""
    for names in (ATTRIBUTES, UNTRAINED + ATTRIBUTES):
        if count == len(names):
            return names
    return tuple(f"attribute_{index}" for index in range(count))


def attribute_label(values: Sequence[float]) -> str:
    """Attribute values as an assistant turn's label, "helpfulness:4,..." (SteerLM).

    Values are brought to [0, 4] and rounded, halves to the even neighbour.

    Raises:
      ValueError: if there is not one value for each attribute.
    """
    return ",".join(
        f"{name}:{round(min(4.0, max(0.0, value)))}"
        for name, value in zip(ATTRIBUTES, values, strict=True)
    )


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
      role: who speaks.
      content: what is said.
      label: of an assistant's turn, the attribute values that it was written to, as
        in "helpfulness:4,verbosity:1" (SteerLM); empty: none.

    Raises:
      ValueError: if the role is unknown.
    """

    role: Role
    content: str
    label: str = ""

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(f"role {self.role!r} is none of {', '.join(ROLES)}")


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Messages in order: an optional system message, then user and assistant turns.

    The order of the roles is checked where it matters, by the chat template.
    """

    messages: tuple[Message, ...]

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
            return Conversation(self.messages[:-1])
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
        """The first turn of a user, "" where there is none; rows are held out by it."""
        first = (turn.content for turn in self.messages if turn.role == "user")
        return next(first, "").strip()

    def with_response(self, response: str) -> "Conversation":
        """Returns the conversation with one more assistant turn."""
        return Conversation((*self.messages, Message("assistant", response)))


@dataclasses.dataclass(frozen=True)
class PreferencePair:
    """Two responses to one prompt, the first preferred, maybe with their rewards.

    The rewards are those of the ground truth or of a reward model, on its own scale;
    RPO needs them, DPO does not. The margin is by how much the first is better, 0 or
    more: what annotators said (1 to 3 in HelpSteer), or a difference of ratings.
    """

    prompt: Conversation
    chosen: str
    rejected: str
    chosen_reward: float | None = None
    rejected_reward: float | None = None
    margin: float | None = None


@dataclasses.dataclass(frozen=True)
class AttributeLabels:
    """Labels (0 to 4) of a conversation's last response, in the order `ATTRIBUTES`.

    Raises:
      ValueError: if there is not one label for each attribute.
    """

    conversation: Conversation
    labels: tuple[float, ...]

    def __post_init__(self):
        if len(self.labels) != len(ATTRIBUTES):
            raise ValueError(
                f"{len(self.labels)} labels for the {len(ATTRIBUTES)} attributes "
                f"{', '.join(ATTRIBUTES)}; mark a missing one by {MISSING}"
            )


AnyRecord = Conversation | PreferencePair | AttributeLabels

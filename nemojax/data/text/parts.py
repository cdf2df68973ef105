"""Conversations as parts: control tokens, plain text, and what is trained.

A template says which parts a conversation becomes; here they become tokens. Control
tokens enter by name and never from text, whatever a message says. Neighbouring texts
are encoded in one run, as if they were one string, but a run ends where a response
begins: so the tokens of a prompt are a prefix of those of prompt and response.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

from nemojax.data.records import Conversation, Message
from nemojax.errors import UserError


class TextTokenizer(Protocol):
    """What templates need of a tokenizer: `Tokenizer` and `HuggingFaceTokenizer`."""

    @property
    def bos_id(self) -> int:
        """The id that begins a sequence; raises ValueError if there is none."""
        ...

    def control(self, piece: str) -> int:
        """The id of a control token; raises ValueError if there is none."""
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of a text, none of them a control id."""
        ...

    def encode_inside(self, text: str) -> list[int]:
        """As `encode`, for a text that does not begin a sequence."""
        ...


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of a rendered conversation.

    Attributes:
      text: of the piece, or the name of a control token.
      control: whether it is a control token.
      turn: index of the message that this is the response of; None: of the frame.
    """

    text: str
    control: bool = False
    turn: int | None = None


def to_tokens(
    tokenizer: TextTokenizer, parts: Iterable[Part], trained: set[int]
) -> tuple[list[int], list[int]]:
    """Tokens and loss mask.

    Args:
      tokenizer: gives the tokens.
      parts: in order.
      trained: the messages whose responses have mask 1.

    Raises:
      UserError: a control token that the tokenizer does not have.
    """
    tokens: list[int] = []
    mask: list[int] = []
    text, turn = "", None

    def flush() -> None:
        if text:
            encode = tokenizer.encode_inside if tokens else tokenizer.encode
            add(encode(text), turn)

    def add(ids: Sequence[int], of: int | None) -> None:
        tokens.extend(ids)
        mask.extend([int(of in trained)] * len(ids))

    for part in parts:
        if part.control or part.turn != turn:
            flush()
            text = ""
        turn = part.turn
        if part.control:
            add([tokenizer.control(part.text)], part.turn)
        else:
            text += part.text
    flush()
    return tokens, mask


def check_roles(conversation: Conversation) -> tuple[str, Sequence[Message], int]:
    """The system text, the turns, and the index of the first turn.

    Raises:
      UserError: the turns do not alternate starting with a user; the message names
        the index and the reason.
    """
    messages = conversation.messages
    first = int(bool(messages) and messages[0].role == "system")
    system = messages[0].content if first else ""
    for index, message in enumerate(messages[first:], first):
        expected = "user" if (index - first) % 2 == 0 else "assistant"
        if message.role == "system":
            raise UserError(f"message {index}: a system message can only come first")
        if message.role != expected:
            raise UserError(
                f"message {index}: role {message.role!r} where {expected!r} must come"
            )
    if len(messages) == first:
        raise UserError(f"message {first}: there is no user turn")
    return system, messages[first:], first


class PartsTemplate:
    """A chat template that renders parts; `parts` is what a subclass says."""

    def parts(self, conversation: Conversation, open_answer: bool) -> list[Part]:
        """The parts of a conversation.

        Args:
          conversation: alternating turns.
          open_answer: end with what opens an assistant's turn.
        """
        raise NotImplementedError

    def encode(
        self, tokenizer: TextTokenizer, conversation: Conversation
    ) -> tuple[list[int], list[int]]:
        """Tokens and loss mask for training on every assistant turn.

        Trained (mask 1) are the text of an assistant turn and the token that ends it.

        Raises:
          UserError: the roles do not alternate, an assistant turn is empty, or there
            is no assistant turn.
        """
        trained = set()
        for index, message in enumerate(conversation.messages):
            if message.role == "assistant":
                if not message.content:
                    raise UserError(f"message {index}: the assistant turn is empty")
                trained.add(index)
        if not trained:
            raise UserError("there is no assistant turn to train on")
        return to_tokens(tokenizer, self.parts(conversation, False), trained)

    def encode_prompt(
        self, tokenizer: TextTokenizer, conversation: Conversation
    ) -> list[int]:
        """Tokens up to where a response begins.

        Raises:
          UserError: the roles do not alternate or the last turn is not a user's.
        """
        messages = conversation.messages
        if not messages or messages[-1].role != "user":
            raise UserError("the last turn of a prompt must be a user's")
        return to_tokens(tokenizer, self.parts(conversation, True), set())[0]

    def encode_response(
        self, tokenizer: TextTokenizer, prompt: Conversation, response: str
    ) -> tuple[list[int], list[int]]:
        """Tokens and loss mask for one response, which alone is trained.

        Raises:
          UserError: as `encode_prompt`.
        """
        self.encode_prompt(tokenizer, prompt)
        whole = prompt.with_response(response)
        last = {len(prompt.messages)}
        return to_tokens(tokenizer, self.parts(whole, False), last)

    def encode_for_reward(
        self, tokenizer: TextTokenizer, conversation: Conversation
    ) -> list[int]:
        """Tokens of a conversation; rewards are read at the last, which ends it.

        Raises:
          UserError: the roles do not alternate or the last turn is not an
            assistant's.
        """
        messages = conversation.messages
        if not messages or messages[-1].role != "assistant":
            raise UserError("the last turn of a scored text must be an assistant's")
        return to_tokens(tokenizer, self.parts(conversation, False), set())[0]

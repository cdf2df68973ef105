"""Chat templates: conversations as control tokens and texts, and what is trained.

A template says which parts a conversation becomes; here they become tokens. Control
tokens enter by name and never from text, whatever a message says. Neighbouring texts
are encoded in one run, as if they were one string, but a run ends where a response
begins: so the tokens of a prompt are a prefix of those of prompt and response.
"""

import abc
import dataclasses
from collections.abc import Iterable, Sequence
from typing import ClassVar, Protocol

from nemojax.data.records import Conversation, Message, Role
from nemojax.errors import UserError


class TextTokenizer(Protocol):
    """The part of `Tokenizer` and `HuggingFaceTokenizer` that templates use."""

    def control(self, piece: str) -> int:
        """Returns the id of a control token; raises ValueError if there is none."""
        ...

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, none of them a control id."""
        ...

    def encode_inside(self, text: str) -> list[int]:
        """Encodes a text that does not begin a sequence, otherwise as `encode`."""
        ...


@dataclasses.dataclass(frozen=True)
class TemplatePart:
    """A piece of a rendered conversation.

    Attributes:
      text: text of the piece, or the name of a control token.
      control: whether it is a control token.
      turn: index of the message whose response this belongs to; None: the frame.
      alone: whether the text is encoded by itself, as one that begins a sequence.
    """

    text: str
    control: bool = False
    turn: int | None = None
    alone: bool = False


def to_tokens(
    tokenizer: TextTokenizer, parts: Iterable[TemplatePart], trained: set[int]
) -> tuple[list[int], list[int]]:
    """Encodes the parts of a conversation.

    Args:
      tokenizer: tokenizer that gives the ids.
      parts: parts in order.
      trained: the messages whose responses have mask 1.

    Returns:
      Token ids and loss mask (0 or 1), of one length.

    Raises:
      UserError: a control token that the tokenizer does not have.
    """
    tokens: list[int] = []
    mask: list[int] = []
    run: list[TemplatePart] = []  # texts that are encoded together

    def flush() -> None:
        if text := "".join(part.text for part in run):
            alone = run[0].alone or not tokens
            encode = tokenizer.encode if alone else tokenizer.encode_inside
            add(encode(text), run[0].turn)
        run.clear()

    def add(ids: Sequence[int], turn: int | None) -> None:
        tokens.extend(ids)
        mask.extend([int(turn in trained)] * len(ids))

    for part in parts:
        joins = run and (run[-1].turn, run[-1].alone) == (part.turn, part.alone)
        if not joins or part.control or part.alone:
            flush()
        if part.control:
            add([tokenizer.control(part.text)], part.turn)
        else:
            run.append(part)
    flush()
    return tokens, mask


def check_roles(
    conversation: Conversation, *, tools: bool = False
) -> tuple[str, Sequence[Message], int]:
    """Checks the order of the roles.

    Args:
      conversation: an optional system message, then user and assistant turns in
        alternation; results of tools stand between an assistant's turn that calls
        them and the next.
      tools: whether the template renders tools.

    Returns:
      The system text, the turns, and the index of the first turn.

    Raises:
      UserError: another order, or tools in a template that has none; the message
        names the index and the reason.
    """
    messages = conversation.messages
    first = int(bool(messages) and messages[0].role == "system")
    if conversation.tools and not tools:
        raise UserError(f"the conversation offers tools, {_NO_TOOLS}")
    expected: tuple[Role, ...] = ("user",)
    for index, message in enumerate(messages[first:], first):
        if (message.role == "tool" or message.tool_calls) and not tools:
            raise UserError(
                f"message {index}: a tool is called or answers, {_NO_TOOLS}"
            )
        if message.role == "system":
            raise UserError(f"message {index}: a system message can only come first")
        if message.role not in expected:
            raise UserError(
                f"message {index}: role {message.role!r} where {expected[-1]!r} must "
                "come"
            )
        if message.role == "tool":
            expected = ("tool", "assistant")
        elif message.tool_calls:
            expected = ("tool",)
        else:
            expected = ("assistant",) if message.role == "user" else ("user",)
    if len(messages) == first:
        raise UserError(f"message {first}: there is no user turn")
    return messages[0].content if first else "", messages[first:], first


_NO_TOOLS = "which this chat template has no form for; a model's own Jinja may have one"


class ChatTemplate(abc.ABC):
    """The way in which conversations become tokens; a subclass says `parts`.

    Attributes:
      turn_closing: text between an answer and the token that ends it, which is no part
        of the answer.
    """

    turn_closing: ClassVar[str] = ""

    @abc.abstractmethod
    def parts(
        self, conversation: Conversation, open_answer: bool
    ) -> list[TemplatePart]:
        """Returns the parts of a conversation.

        Args:
          conversation: conversation, see `check_roles`.
          open_answer: whether they end with what opens an assistant's turn.

        Raises:
          UserError: the template cannot render the conversation.
        """

    def encode(
        self, tokenizer: TextTokenizer, conversation: Conversation
    ) -> tuple[list[int], list[int]]:
        """Returns tokens and loss mask for training on the assistant's turns.

        Trained (mask 1) are the text of an assistant turn and the token that ends it,
        but not of a turn that is marked as not trained.

        Raises:
          UserError: the roles are out of order, or a trained assistant turn is empty,
            calls tools or is missing.
        """
        trained = set()
        for index, message in enumerate(conversation.messages):
            if message.role == "assistant" and message.trained:
                if message.tool_calls:
                    raise UserError(
                        f"message {index}: calls of tools cannot be trained on"
                    )
                if not message.content:
                    raise UserError(f"message {index}: the assistant turn is empty")
                trained.add(index)
        parts = self.parts(conversation, False)
        if not trained:
            raise UserError("there is no assistant turn to train on")
        return to_tokens(tokenizer, parts, trained)

    def encode_prompt(
        self, tokenizer: TextTokenizer, conversation: Conversation
    ) -> list[int]:
        """Returns the tokens up to where a response begins.

        Raises:
          UserError: the roles are out of order, or the last is an assistant's.
        """
        _require_last(conversation, "user", "tool")
        return to_tokens(tokenizer, self.parts(conversation, True), set())[0]

    def encode_response(
        self, tokenizer: TextTokenizer, prompt: Conversation, response: str
    ) -> tuple[list[int], list[int]]:
        """Returns tokens and loss mask for one response to a prompt.

        Only this response is trained, not the prompt's own assistant turns, and it may
        be empty: preference losses compare such responses. The tokens are those of
        `encode_prompt` followed by those that the mask marks.

        Raises:
          UserError: as `encode_prompt`.
        """
        _require_last(prompt, "user", "tool")
        whole = prompt.with_response(response)
        last = {len(prompt.messages)}
        return to_tokens(tokenizer, self.parts(whole, False), last)

    def encode_for_reward(
        self, tokenizer: TextTokenizer, conversation: Conversation
    ) -> list[int]:
        """Returns the tokens of a conversation, at the last of which rewards are read.

        Raises:
          UserError: the roles are out of order, or the last is not an assistant's.
        """
        _require_last(conversation, "assistant")
        return to_tokens(tokenizer, self.parts(conversation, False), set())[0]


def _require_last(conversation: Conversation, *roles: Role) -> None:
    messages = conversation.messages
    if not messages:
        raise UserError("the conversation has no messages")
    if messages[-1].role not in roles:
        raise UserError(
            f"message {len(messages) - 1}: role {messages[-1].role!r} where the last "
            f"turn must be {roles[0]!r}"
        )

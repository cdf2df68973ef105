"""Chat templates: conversations as control tokens and texts, and what is trained.

A template says which parts a conversation becomes; here they become tokens. Control
tokens enter by name and never from text, whatever a message says. Neighbouring texts
are encoded as the one string that they are, but where a token would reach over the
beginning of a trained response the string is cut there: so the tokens of a prompt are a
prefix of those of prompt and response.
"""

import abc
import dataclasses
import itertools
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

    def encode_inside(
        self, text: str, before: str | None = None, after: str | None = None
    ) -> list[int]:
        """Encodes a text that does not begin a sequence, otherwise as `encode`.

        Args:
          text: text that goes on, or stands beside a control token.
          before: name of the control token before it; None: another text.
          after: name of the control token after it; None: another text, or nothing.
        """
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
    before = None  # the control token before them

    def add(ids: Sequence[int], turn: int | None) -> None:
        tokens.extend(ids)
        mask.extend([int(turn in trained)] * len(ids))

    def flush(after: str | None = None) -> None:
        turns = itertools.groupby(run, lambda p: p.turn if p.turn in trained else None)
        texts = [("".join(part.text for part in parts), turn) for turn, parts in turns]
        begins = not tokens or run[0].alone if run else False
        found = _encode_run(
            tokenizer, [text for text, _ in texts], begins, before, after
        )
        for ids, (_, turn) in zip(found, texts, strict=True):
            add(ids, turn)
        run.clear()

    for part in parts:
        if part.alone or (run and run[-1].alone):
            flush()
            before = None
        if part.control:
            flush(part.text)
            before = part.text
            add([tokenizer.control(part.text)], part.turn)
        elif part.text:
            run.append(part)
    flush()
    return tokens, mask


def _encode_run(
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    begins: bool,
    before: str | None,
    after: str | None,
) -> list[list[int]]:
    """Returns the ids of neighbouring texts, encoded as one where they can be.

    A text whose tokens are not the first ones of the longer text keeps them, and the
    next is encoded as what goes on: it is what a model was asked with.
    """
    whole, ids, found = "", [], []
    for number, text in enumerate(texts, 1):
        whole += text
        end = after if number == len(texts) else None
        if begins:
            joined = tokenizer.encode(whole)
        else:
            joined = tokenizer.encode_inside(whole, before, end)
        if joined[: len(ids)] != ids:
            joined = ids + tokenizer.encode_inside(text, None, end)
        found.append(joined[len(ids) :])
        ids = joined
    return found


def check_roles(
    conversation: Conversation, *, tools: bool = False, labels: bool = False
) -> tuple[str, Sequence[Message], int]:
    """Checks the order of the roles.

    Args:
      conversation: an optional system message, then user and assistant turns in
        alternation; results of tools stand between an assistant's turn that calls
        them and the next.
      tools: whether the template renders tools.
      labels: whether it renders the labels of messages.

    Returns:
      The system text, the turns, and the index of the first turn.

    Raises:
      UserError: another order, or tools or labels in a template that has none; the
        message names the index and the reason.
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
        if message.label and not labels:
            raise UserError(f"message {index}: has a label, {_NO_LABELS}")
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


_NO_LABELS = "which only the template 'nemotron' has a form for"
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

    def parts_to_train(
        self, conversation: Conversation, trained: set[int]
    ) -> list[TemplatePart]:
        """Returns the parts of a conversation some of whose responses are trained.

        Args:
          conversation: conversation that ends with a response.
          trained: the messages whose responses are trained. The parts before one are
            those of the prompt before it, and what follows them belongs to it.

        Raises:
          UserError: as `parts`, or a response does not follow its prompt.
        """
        del trained
        return self.parts(conversation, False)

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
        parts = self.parts_to_train(conversation, trained)
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
        `encode_prompt`, those that the mask marks, and what the template writes after
        the token that ends the response.

        Raises:
          UserError: as `encode_prompt`.
        """
        _require_last(prompt, "user", "tool")
        whole = prompt.with_response(response)
        last = {len(prompt.messages)}
        return to_tokens(tokenizer, self.parts_to_train(whole, last), last)

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

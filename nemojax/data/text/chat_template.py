"""Conversations to tokens: the chat template of the Nemotron-4 models.

    <extra_id_0>System
    {system message, often empty}
    <extra_id_1>User
    {user turn}
    <extra_id_1>Assistant
    {assistant turn}
    <extra_id_1>

An assistant turn with a label has a line `<extra_id_2>{label}` before its text
(SteerLM), and the input of a reward model ends with `<extra_id_2>`.

The control tokens are spliced in by id and every message is encoded by itself. Hence
text cannot forge a turn, and the tokens of a prompt are always a prefix of the tokens
of the prompt with a response.
"""

import dataclasses
from collections.abc import Iterable

from nemojax.data.records import Conversation
from nemojax.data.text.parts import TextTokenizer, check_roles
from nemojax.data.text.tokenizer import Tokenizer
from nemojax.errors import UserError

SYSTEM_START = "<extra_id_0>"
TURN_START = "<extra_id_1>"
LABEL_START = "<extra_id_2>"
REWARD_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_ROLE_LINES = {"user": "User\n", "assistant": "Assistant\n"}


def stop_id(tokenizer: TextTokenizer) -> int:
    """Returns the id that ends a generated response: that of `TURN_START`."""
    return tokenizer.control(TURN_START)


def response_text(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """Returns the text of a generated response: up to the stop, less its newline."""
    stop = stop_id(tokenizer)
    before_stop = []
    for token_id in ids:
        if token_id == stop:
            break
        before_stop.append(token_id)
    return tokenizer.decode(before_stop).removesuffix("\n")


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """How conversations become tokens.

    Attributes:
      system_header: whether a conversation without system text has the (empty) system
        block too, as Nemotron-4's do. Without, tiny models save its tokens.
      bos: whether a sequence starts with the BOS token. Nemotron-4's do not.
      system: text of the system block of a conversation that has none itself.
    """

    system_header: bool = True
    bos: bool = False
    system: str = ""

    def encode_prompt(
        self, tokenizer: TextTokenizer, conversation: Conversation
    ) -> list[int]:
        """Returns tokens up to "<extra_id_1>Assistant\\n", where a response begins.

        Raises:
          UserError: if the roles do not alternate or the last turn is not a user's.
        """
        _require_last(conversation, "user")
        tokens, _ = self._turns(tokenizer, conversation)
        return tokens + _role_line(tokenizer, "assistant")

    def encode(
        self, tokenizer: TextTokenizer, conversation: Conversation
    ) -> tuple[list[int], list[int]]:
        """Returns tokens and loss mask for training on every assistant turn.

        Trained (mask 1) are an assistant turn's text, the newline after it and the
        <extra_id_1> that closes it, be it the first token of a later user turn.

        Raises:
          UserError: if the roles do not alternate, an assistant turn is empty, or
            there is no assistant turn.
        """
        for index, message in enumerate(conversation.messages):
            if message.role == "assistant" and not message.content:
                raise UserError(f"message {index}: the assistant turn is empty")
        tokens, mask = self._turns(tokenizer, conversation)
        if not any(mask):
            raise UserError("there is no assistant turn to train on")
        if conversation.messages[-1].role == "assistant":
            tokens.append(stop_id(tokenizer))
            mask.append(1)
        return tokens, mask

    def encode_response(
        self, tokenizer: TextTokenizer, prompt: Conversation, response: str
    ) -> tuple[list[int], list[int]]:
        """Returns tokens and loss mask for one response to a prompt.

        As `encode`, but only this response is trained, not the prompt's own assistant
        turns, and it may be empty: what preference losses compare. The tokens are
        those of `encode_prompt` followed by those that the mask marks.

        Raises:
          UserError: as `encode_prompt`.
        """
        tokens = self.encode_prompt(tokenizer, prompt)
        answer = [*_line(tokenizer, response), stop_id(tokenizer)]
        return tokens + answer, [0] * len(tokens) + [1] * len(answer)

    def encode_for_reward(
        self, tokenizer: TextTokenizer, conversation: Conversation
    ) -> list[int]:
        """Returns tokens that end with <extra_id_2>, where rewards are read.

        Raises:
          UserError: if the roles do not alternate or the last turn is not an
            assistant's.
        """
        _require_last(conversation, "assistant")
        tokens, _ = self._turns(tokenizer, conversation)
        return [*tokens, tokenizer.control(LABEL_START)]

    def _turns(
        self, tokenizer: TextTokenizer, conversation: Conversation
    ) -> tuple[list[int], list[int]]:
        """Returns tokens and mask up to the newline that ends the last message."""
        system, turns, _ = check_roles(conversation)
        system = system or self.system
        tokens = [tokenizer.bos_id] if self.bos else []
        if system or self.system_header:
            tokens.append(tokenizer.control(SYSTEM_START))
            tokens += tokenizer.encode_inside("System\n") + _line(tokenizer, system)
        mask = [0] * len(tokens)
        for index, message in enumerate(turns):
            role_line = _role_line(tokenizer, message.role)
            text = _line(tokenizer, message.content)
            trained = int(message.role == "assistant")
            if message.label:
                role_line.append(tokenizer.control(LABEL_START))
                role_line += tokenizer.encode_inside(f"{message.label}\n")
            tokens += role_line + text
            # The token that opens a turn also closes the assistant turn before it.
            closes = int(index > 0 and not trained)
            mask += [closes] + [0] * (len(role_line) - 1) + [trained] * len(text)
        return tokens, mask


def _require_last(conversation: Conversation, role: str) -> None:
    messages = conversation.messages
    if not messages:
        raise UserError("the conversation has no messages")
    if messages[-1].role != role:
        raise UserError(
            f"message {len(messages) - 1}: role {messages[-1].role!r} where the last "
            f"turn must be {role!r}"
        )


def _line(tokenizer: TextTokenizer, text: str) -> list[int]:
    return tokenizer.encode(text) + tokenizer.encode_inside("\n")


def _role_line(tokenizer: TextTokenizer, role: str) -> list[int]:
    return [stop_id(tokenizer), *tokenizer.encode_inside(_ROLE_LINES[role])]


NEMOTRON = ChatTemplate()
# What NVIDIA's released reward models were trained on; another system text than theirs
# shifts the values.
NEMOTRON_REWARD = ChatTemplate(system=REWARD_SYSTEM)

"""The chat template of the Nemotron-4 models.

    <extra_id_0>System
    {system message, often empty}
    <extra_id_1>User
    {user turn}
    <extra_id_1>Assistant
    {assistant turn}
    <extra_id_1>

An assistant turn with a label has a line `<extra_id_2>{label}` before its text
(SteerLM), and the input of a reward model ends with `<extra_id_2>`.

Every message is encoded by itself, apart from the lines around it.
"""

import dataclasses
from typing import ClassVar

from nemojax.data.records import Conversation
from nemojax.data.text.chat_template import (
    ChatTemplate,
    TemplatePart,
    TextTokenizer,
    check_roles,
)

SYSTEM_START = "<extra_id_0>"
TURN_START = "<extra_id_1>"
LABEL_START = "<extra_id_2>"
REWARD_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def stop_id(tokenizer: TextTokenizer) -> int:
    """Returns the id that ends a generated response: that of `TURN_START`."""
    return tokenizer.control(TURN_START)


@dataclasses.dataclass(frozen=True)
class NemotronTemplate(ChatTemplate):
    """Lines that name the role before each message, a newline after it.

    Trained are an assistant turn's text, the newline after it and the `<extra_id_1>`
    that closes it, be it the first token of a later user turn.

    Attributes:
      system: text of the system block of a conversation that has none itself, which
        begins with this block all the same.
    """

    turn_closing: ClassVar[str] = "\n"

    system: str = ""

    def parts(
        self, conversation: Conversation, open_answer: bool
    ) -> list[TemplatePart]:
        """Returns the parts; see `ChatTemplate.parts`."""
        system, turns, first = check_roles(conversation, labels=True)
        found = [TemplatePart(SYSTEM_START, control=True), TemplatePart("System\n")]
        found += [TemplatePart(system or self.system, alone=True), TemplatePart("\n")]
        turn = None
        for index, message in enumerate(turns, first):
            # The token that opens a turn also closes the assistant turn before it.
            found.append(TemplatePart(TURN_START, control=True, turn=turn))
            found.append(TemplatePart(f"{message.role.capitalize()}\n"))
            if message.label:
                found += [
                    TemplatePart(LABEL_START, control=True),
                    TemplatePart(f"{message.label}\n"),
                ]
            turn = index if message.role == "assistant" else None
            found += [
                TemplatePart(message.content, turn=turn, alone=True),
                TemplatePart("\n", turn=turn),
            ]
        if open_answer:
            found += [
                TemplatePart(TURN_START, control=True),
                TemplatePart("Assistant\n"),
            ]
        elif turn is not None:
            found.append(TemplatePart(TURN_START, control=True, turn=turn))
        return found

    def encode_for_reward(
        self, tokenizer: TextTokenizer, conversation: Conversation
    ) -> list[int]:
        """Returns tokens that end with `<extra_id_2>`, where rewards are read.

        Raises:
          ValueError: as `ChatTemplate.encode_for_reward`.
        """
        tokens = super().encode_for_reward(tokenizer, conversation)
        return [*tokens[:-1], tokenizer.control(LABEL_START)]


NEMOTRON = NemotronTemplate()
# What NVIDIA's released reward models were trained on; another system text than theirs
# shifts the values.
NEMOTRON_REWARD = NemotronTemplate(system=REWARD_SYSTEM)

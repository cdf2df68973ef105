"""The chat templates of Llama 2 and Llama 3."""

import dataclasses

from nemojax.data.records import Conversation
from nemojax.data.text.chat_template import ChatTemplate, TemplatePart, check_roles


@dataclasses.dataclass(frozen=True)
class Llama2Template(ChatTemplate):
    """Llama 2's `<s>[INST] {user} [/INST] {assistant} </s>`, the system text inside.

    Attributes:
      bos, eos: names of the control tokens.
    """

    bos: str = "<s>"
    eos: str = "</s>"

    def parts(
        self, conversation: Conversation, open_answer: bool
    ) -> list[TemplatePart]:
        """Returns the parts, with stripped texts, as Meta's code does."""
        system, turns, first = check_roles(conversation)
        found = []
        for index, message in enumerate(turns, first):
            text = message.content.strip()
            if message.role == "user":
                if index == first and system:
                    text = f"<<SYS>>\n{system.strip()}\n<</SYS>>\n\n{text}"
                found += [
                    TemplatePart(self.bos, control=True),
                    TemplatePart(f"[INST] {text} [/INST]"),
                ]
            else:
                answer = TemplatePart(f" {text} " if text else " ", turn=index)
                found += [answer, TemplatePart(self.eos, control=True, turn=index)]
        return found


@dataclasses.dataclass(frozen=True)
class Llama3Template(ChatTemplate):
    """Llama 3's header with the role before a message, `<|eot_id|>` after it.

    Attributes:
      bos: whether a sequence starts with `<|begin_of_text|>`.
    """

    bos: bool = True

    def parts(
        self, conversation: Conversation, open_answer: bool
    ) -> list[TemplatePart]:
        """Returns the parts, with stripped texts, as Meta's code does."""
        check_roles(conversation)
        found = [TemplatePart("<|begin_of_text|>", control=True)] if self.bos else []
        for index, message in enumerate(conversation.messages):
            found += self._header(message.role)
            turn = index if message.role == "assistant" else None
            found.append(TemplatePart(message.content.strip(), turn=turn))
            found.append(TemplatePart("<|eot_id|>", control=True, turn=turn))
        return found + (self._header("assistant") if open_answer else [])

    def _header(self, role: str) -> list[TemplatePart]:
        return [
            TemplatePart("<|start_header_id|>", control=True),
            TemplatePart(role),
            TemplatePart("<|end_header_id|>", control=True),
            TemplatePart("\n\n"),
        ]

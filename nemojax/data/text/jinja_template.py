"""A checkpoint's own `chat_template`, rendered at arm's length.

The template never sees what a message says: it renders placeholders, with the white
space around each text, and the texts are put in afterwards. So no text can pass for a
control token, and a template that would look into a text finds none.
"""

import pathlib
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from nemojax.data.records import Conversation
from nemojax.data.text.parts import Part, PartsTemplate, check_roles
from nemojax.errors import UserError
from nemojax.execution.worker import Worker, WorkerError

MAX_TEMPLATE_CHARACTERS = 100_000
MAX_RENDERED_CHARACTERS = 1_000_000
_PROGRAM = pathlib.Path(__file__).with_name("jinja_worker.py")


class JinjaTemplate(PartsTemplate):
    """Renders conversations with a Jinja template.

    Attributes:
      source: the template.
      controls: names of the control tokens that it may write.
    """

    def __init__(
        self,
        source: str,
        controls: Sequence[str],
        *,
        variables: Mapping[str, Any] | None = None,
        seconds: float = 5.0,
    ):
        """Checks the sizes; a process is started when the first text is rendered.

        Args:
          source: the template.
          controls: the control tokens of the tokenizer.
          variables: further names that the template reads, such as "bos_token".
          seconds: that one conversation may take.

        Raises:
          UserError: the template is too long.
        """
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise UserError(
                f"a chat template of {len(source):,} characters; at most "
                f"{MAX_TEMPLATE_CHARACTERS:,} are allowed"
            )
        self.source = source
        self.controls = tuple(sorted(controls, key=len, reverse=True))
        self._variables = dict(variables or {})
        self._seconds = seconds
        self._worker = Worker(_PROGRAM)

    def parts(self, conversation: Conversation, open_answer: bool) -> list[Part]:
        """See `PartsTemplate.parts`.

        Raises:
          UserError: the template fails, takes too long, or writes too much.
        """
        check_roles(conversation)
        nonce = secrets.token_hex(8)
        messages, texts = [], {}
        for index, message in enumerate(conversation.messages):
            core, content = message.content.strip(), message.content
            place = f"[{nonce}:{index}]"
            # A template may ask whether a text is empty; where an answer ends must be
            # known all the same.
            if core:
                content = content.replace(core, place, 1)
            elif message.role == "assistant":
                content = place
            texts[index] = core
            messages.append({"role": message.role, "content": content})
        rendered = self._render(messages, open_answer)
        found: list[Part] = []
        pieces = re.split(rf"\[{nonce}:(\d+)\]", rendered)
        # An answer's part ends with the control token after it.
        after = None
        for index, piece in enumerate(pieces):
            if index % 2:
                number = int(piece)
                assistant = conversation.messages[number].role == "assistant"
                after = number if assistant else None
                found.append(Part(texts[number], turn=after))
            else:
                found += self._frame(piece, after)
        return found

    def _frame(self, text: str, after: int | None) -> list[Part]:
        """Parts of the template's own text; `after` is the answer before it."""
        if not text:
            return []
        if not self.controls:
            return [Part(text)]
        names = "|".join(map(re.escape, self.controls))
        found = []
        for piece in re.split(f"({names})", text):
            if not piece:
                continue
            control = piece in self.controls
            # The space before the end token is the answer's, what follows it is not.
            found.append(Part(piece, control, after))
            after = None if control else after
        return found

    def _render(self, messages: list[dict[str, str]], open_answer: bool) -> str:
        request = {
            **self._variables,
            "template": self.source,
            "messages": messages,
            "add_generation_prompt": open_answer,
        }
        limit = 6 * MAX_RENDERED_CHARACTERS  # a character is up to 6 bytes of JSON
        try:
            answer = self._worker.ask(request, self._seconds, limit)
        except WorkerError as error:
            raise UserError(f"the chat template {error}") from None
        if "error" in answer:
            raise UserError(f"the chat template fails: {answer['error']}")
        return answer["text"]

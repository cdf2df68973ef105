"""A checkpoint's own `chat_template`, rendered in a process with limits.

The template never sees what a message says: it renders placeholders, with the white
space around each text, and the texts are put in afterwards. So no text can pass for a
control token, and a template that would look into a text finds none.
"""

import dataclasses
import json
import pathlib
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nemojax.data.records import Conversation, Message, ToolCall
from nemojax.data.text.chat_template import ChatTemplate, TemplatePart, check_roles
from nemojax.errors import UserError
from nemojax.execution.worker import Worker, WorkerError

MAX_TEMPLATE_CHARACTERS = 100_000
MAX_RENDERED_CHARACTERS = 1_000_000
_PROGRAM = pathlib.Path(__file__).with_name("jinja_worker.py")
_NAME = re.compile(r"[\w.-]*")


class JinjaTemplate(ChatTemplate):
    """A chat template in Jinja, rendered in a process with limits.

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
          seconds: most seconds that one conversation may take.

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

    def parts(
        self, conversation: Conversation, open_answer: bool
    ) -> list[TemplatePart]:
        """Returns the parts; see `ChatTemplate.parts`.

        Raises:
          UserError: the template fails, takes too long, or writes too much.
        """
        check_roles(conversation, tools=True)
        hidden = _Hidden(self.controls)
        tools = [hidden.values(json.loads(tool)) for tool in conversation.tools]
        request = {
            **self._variables,
            "template": self.source,
            "messages": [
                hidden.message(index, message)
                for index, message in enumerate(conversation.messages)
            ],
            "tools": tools or None,
            "add_generation_prompt": open_answer,
        }
        found: list[TemplatePart] = []
        # An answer's part ends with the control token after it.
        after = None
        for piece in hidden.split(self._render(request)):
            if isinstance(piece, TemplatePart):
                found.append(piece)
                after = piece.turn
            else:
                found += self._frame(piece, after)
        return found

    def _frame(self, text: str, after: int | None) -> list[TemplatePart]:
        """Returns the parts of the template's own text after the answer `after`."""
        if not text:
            return []
        if not self.controls:
            return [TemplatePart(text)]
        names = "|".join(map(re.escape, self.controls))
        found = []
        for piece in re.split(f"({names})", text):
            if not piece:
                continue
            control = piece in self.controls
            # The space before the end token is the answer's, what follows it is not.
            found.append(TemplatePart(piece, control, after))
            after = None if control else after
        return found

    def _render(self, request: dict[str, Any]) -> str:
        limit = 6 * MAX_RENDERED_CHARACTERS  # a character is up to 6 bytes of JSON
        try:
            answer = self._worker.ask(request, self._seconds, limit)
        except WorkerError as error:
            raise UserError(f"the chat template {error}") from None
        if "error" in answer:
            raise UserError(f"the chat template fails: {answer['error']}")
        return answer["text"]


class _Hidden:
    """Texts that a template sees as placeholders, and gets back as parts."""

    def __init__(self, controls: Sequence[str]):
        self._controls = controls
        self._nonce = secrets.token_hex(8)
        self._parts: list[TemplatePart] = []

    def message(self, index: int, message: Message) -> dict[str, Any]:
        """Returns a message as templates read it, without its texts."""
        core, content = message.content.strip(), message.content
        answer = message.role == "assistant" and not message.tool_calls
        # A template may ask whether a text is empty; where an answer ends must be
        # known all the same.
        if core or answer:
            place = self._place(core, turn=index if answer else None)
            content = content.replace(core, place, 1) if core else place
        found: dict[str, Any] = {"role": message.role, "content": content}
        if message.tool_calls:
            found["tool_calls"] = [self._call(call) for call in message.tool_calls]
        for name in ("tool_call_id", "name"):
            if value := getattr(message, name):
                found[name] = self.values(value)
        return found

    def _call(self, call: ToolCall) -> dict[str, Any]:
        try:
            arguments = json.loads(call.arguments)
        except ValueError:
            arguments = call.arguments
        function = {"name": call.name, "arguments": arguments}
        found = {"type": "function", "function": self.values(function)}
        return found | ({"id": self.values(call.id)} if call.id else {})

    def values(self, value: Any) -> Any:
        """Returns JSON without its texts; plain names, which say nothing, stay."""
        if isinstance(value, dict):
            return {self.values(key): self.values(of) for key, of in value.items()}
        if isinstance(value, list):
            return [self.values(item) for item in value]
        if not isinstance(value, str) or (
            _NAME.fullmatch(value) and not any(c in value for c in self._controls)
        ):
            return value
        # The quotation mark shows whether the template writes it as JSON.
        return self._place(value, mark='"')

    def _place(self, text: str, turn: int | None = None, mark: str = "") -> str:
        self._parts.append(TemplatePart(text, turn=turn))
        return f"[{self._nonce}:{len(self._parts) - 1}{mark}]"

    def split(self, rendered: str) -> Iterator[TemplatePart | str]:
        """Yields the parts, and between them what the template wrote."""
        pieces = iter(re.split(rf'\[{self._nonce}:(\d+)(\\?"?)\]', rendered))
        yield next(pieces)
        for number, mark, frame in zip(pieces, pieces, pieces, strict=True):
            part = self._parts[int(number)]
            if mark == '\\"':
                escaped = json.dumps(part.text, ensure_ascii=False)[1:-1]
                part = dataclasses.replace(part, text=escaped)
            yield part
            yield frame

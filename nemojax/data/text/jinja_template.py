"""A checkpoint's own `chat_template`, rendered in a process with limits.

It is rendered twice: for the messages, in which every name of a control token is
disguised, and for placeholders in the place of all texts. So no text can pass for a
control token: those of both renderings have to be the same.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nemojax.data.records import Conversation, ToolCall
from nemojax.data.text.chat_template import ChatTemplate, TemplatePart, check_roles
from nemojax.errors import UserError
from nemojax.execution.worker import Worker, WorkerError

MAX_TEMPLATE_CHARACTERS = 100_000
MAX_RENDERED_CHARACTERS = 1_000_000
_PROGRAM = pathlib.Path(__file__).with_name("jinja_worker.py")
_NAME = re.compile(r"[\w.-]*")
# Characters for private use, which have no meaning of their own.
_PRIVATE = range(0xF0000, 0x10FFFE)
_Show = Callable[[str], str]


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
        tool_source: str | None = None,
        seconds: float = 5.0,
    ):
        """Checks the sizes; a process is started when the first text is rendered.

        Args:
          source: the template.
          controls: the control tokens of the tokenizer.
          variables: further names that the template reads, such as "bos_token".
          tool_source: the template of conversations that offer tools; default: the
            same.
          seconds: most seconds that one conversation may take.

        Raises:
          UserError: the template is too long.
        """
        self.source = source
        self._tool_source = tool_source or source
        for each in (source, self._tool_source):
            if len(each) > MAX_TEMPLATE_CHARACTERS:
                raise UserError(
                    f"a chat template of {len(each):,} characters; at most "
                    f"{MAX_TEMPLATE_CHARACTERS:,} are allowed"
                )
        self.controls = tuple(sorted(controls, key=len, reverse=True))
        names = "|".join(map(re.escape, self.controls))
        self._names = re.compile(f"({names})" if names else "(?!)")
        self._variables = dict(variables or {})
        self._seconds = seconds
        self._worker = Worker(_PROGRAM)

    def parts(
        self, conversation: Conversation, open_answer: bool
    ) -> list[TemplatePart]:
        """Returns the parts; see `ChatTemplate.parts`.

        Raises:
          UserError: the template fails, takes too long, writes too much, or writes
            other control tokens where a message says something else.
        """
        return self._parts(conversation, open_answer, [])

    def parts_to_train(
        self, conversation: Conversation, trained: set[int]
    ) -> list[TemplatePart]:
        """Returns the parts; see `ChatTemplate.parts_to_train`.

        Raises:
          UserError: as `parts`, or the template opens an answer with other text than
            it writes before one that is known.
        """
        return self._parts(conversation, False, sorted(trained))

    def _parts(
        self, conversation: Conversation, open_answer: bool, trained: list[int]
    ) -> list[TemplatePart]:
        """Returns the parts, where trained responses begin as their prompts end."""
        source = self._tool_source if conversation.tools else self.source
        check_roles(conversation, tools="tool" in source)
        texts = _Texts(conversation, self.controls)
        request: dict[str, Any] = {
            "template": source,
            "variables": self._variables,
            "shown": texts.shown(),
            "hidden": texts.hidden(),
            "add_generation_prompt": open_answer,
            "prompts": trained,
        }
        answer = self._render(request)
        shown = answer["shown"]
        parts = self._safe(shown, self._split(texts.fill(answer["hidden"])))
        if parts is None:
            raise UserError(self._blame(request, texts))
        for turn, prompt in zip(trained, answer["prompts"], strict=True):
            _check_prompt(texts.restore(prompt), texts.restore(shown), turn)
            parts = _begin(parts, len(prompt), turn)
        return [
            dataclasses.replace(part, text=texts.restore(part.text)) for part in parts
        ]

    def _safe(
        self, shown: str, hidden: list[TemplatePart]
    ) -> list[TemplatePart] | None:
        """Returns the parts of a rendering whose control tokens the template wrote.

        Args:
          shown: rendering for what the messages say.
          hidden: parts of the rendering for placeholders; where they have other
            control tokens, None is returned.
        """
        if "".join(part.text for part in hidden) == shown:
            return hidden
        # The template looks into a text, to leave a part of it out for example.
        written = [part for part in hidden if part.control]
        if self._names.findall(shown) != [part.text for part in written]:
            return None
        controls = iter(written)
        return [
            next(controls) if piece in self.controls else TemplatePart(piece)
            for piece in self._names.split(shown)
        ]

    def _blame(self, request: dict[str, Any], texts: "_Texts") -> str:
        """Returns the reason for a refusal, with the message that causes it."""
        written = self._names.findall(self._render(request)["hidden"])
        for index in range(len(request["shown"]["messages"])):
            one = {"shown": texts.hidden(but=index), "prompts": []}
            found = self._names.findall(self._render(request | one)["shown"])
            if found != written:
                break
        else:
            index, found = "any", self._names.findall(self._render(request)["shown"])
        return (
            f"message {index}: the chat template makes control tokens of what it says: "
            f"{' '.join(found)!r} in place of {' '.join(written)!r}: change the text, "
            "or use another template"
        )

    def _split(self, pieces: Sequence[TemplatePart | str]) -> list[TemplatePart]:
        """Returns texts, and between them the parts of what the template wrote."""
        found: list[TemplatePart] = []
        turn = None
        for number, piece in enumerate(pieces, 1):
            if isinstance(piece, TemplatePart):
                found.append(piece)
                turn = piece.turn
            else:
                found += self._frame(piece, turn, last=number == len(pieces))
        return found

    def _frame(self, text: str, turn: int | None, last: bool) -> list[TemplatePart]:
        """Returns the parts of the template's own text after the answer `turn`.

        What ends an answer is its own: up to the control token, or, at the end of a
        conversation, all. Other text is what comes before the next message.
        """
        pieces = [piece for piece in self._names.split(text) if piece]
        ends = last or any(piece in self.controls for piece in pieces)
        turn = turn if ends else None
        found = []
        for piece in pieces:
            control = piece in self.controls
            found.append(TemplatePart(piece, control, turn))
            turn = None if control else turn
        return found

    def _render(self, request: dict[str, Any]) -> dict[str, Any]:
        # A character is up to 6 bytes of JSON.
        limit = 6 * MAX_RENDERED_CHARACTERS * (2 + len(request["prompts"]))
        try:
            answer = self._worker.ask(request, self._seconds, limit)
        except WorkerError as error:
            raise UserError(f"the chat template {error}") from None
        if "error" in answer:
            raise UserError(f"the chat template fails: {answer['error']}")
        return answer


def _check_prompt(prompt: str, whole: str, turn: int) -> None:
    if not whole.startswith(prompt):
        pairs = enumerate(zip(prompt, whole, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), len(whole))
        raise UserError(
            f"message {turn}: the chat template asks for this answer with "
            f"{prompt[same:][:60]!r} where it writes {whole[same:][:60]!r} once it is "
            "known, so that a model would be trained on another prompt than it is "
            "asked with: leave this answer out, or use another template"
        )


def _begin(parts: list[TemplatePart], start: int, turn: int) -> list[TemplatePart]:
    """Lets a trained response begin after that many characters."""
    ends = [index for index, part in enumerate(parts) if part.turn == turn]
    if not ends:
        raise UserError(
            f"message {turn}: the chat template changes this answer, and writes no "
            "control token that ends it: use another template"
        )
    found = []
    for part in parts[: ends[-1] + 1]:
        size = len(part.text)
        asked = min(max(start, 0), size)
        start -= size
        if asked:
            other = None if part.turn == turn else part.turn
            found.append(dataclasses.replace(part, text=part.text[:asked], turn=other))
        if asked < size:
            found.append(dataclasses.replace(part, text=part.text[asked:], turn=turn))
    return found + parts[ends[-1] + 1 :]


class _Texts:
    """The texts of a conversation, as a template may see them or not at all.

    Shown, they have no name of a control token in them: a character stands for it that
    is in no text. Hidden, such a character stands for each text, so that what a
    template does to a text, such as to shorten it, leaves it where it is.
    """

    def __init__(self, conversation: Conversation, controls: Sequence[str]):
        self._conversation = conversation
        self._controls = controls
        whole = json.dumps(self._fields(str), ensure_ascii=False)
        used = set(whole)
        self._free = (char for char in map(chr, _PRIVATE) if char not in used)
        self._disguises = {name: next(self._free) for name in controls if name in whole}
        self._parts: dict[str, TemplatePart] = {}

    def shown(self) -> dict[str, Any]:
        """Returns messages and tools for a template, with control tokens disguised."""
        return self._fields(self._disguise)

    def hidden(self, but: int | None = None) -> dict[str, Any]:
        """Returns messages and tools without their texts, except for one message's."""

        def content(index: int, text: str) -> str:
            return self._disguise(text) if index == but else self._hide(index, text)

        return self._fields(self._hide_value, content)

    def fill(self, rendered: str) -> list[TemplatePart | str]:
        """Returns the disguised texts, and around each what the template wrote."""
        if not self._parts:
            return [rendered]
        pieces = re.split(f"([{''.join(self._parts)}])", rendered)
        return [self._parts.get(piece, piece) for piece in pieces]

    def restore(self, text: str) -> str:
        """Returns a part of what was rendered with the names that were disguised."""
        for name, char in self._disguises.items():
            text = text.replace(char, name)
        return text

    def _disguise(self, text: str) -> str:
        for name, char in self._disguises.items():  # the longest name comes first
            text = text.replace(name, char)
        return text

    def _hide_value(self, text: str) -> str:
        """Returns a placeholder; plain names, which say nothing, stay."""
        plain = _NAME.fullmatch(text) and not any(c in text for c in self._controls)
        return text if plain else self._place(text)

    def _hide(self, index: int, text: str) -> str:
        """Returns a placeholder between the white space of a message."""
        message, core = self._conversation.messages[index], text.strip()
        answer = message.role == "assistant" and not message.tool_calls
        # A template may ask whether a text is empty; where an answer ends must be
        # known all the same.
        if core or answer:
            place = self._place(core, index if answer else None)
            return text.replace(core, place, 1) if core else place + text
        return text

    def _place(self, text: str, turn: int | None = None) -> str:
        char = next(self._free, None)
        if char is None:
            raise UserError(f"more than {len(_PRIVATE):,} texts for a chat template")
        self._parts[char] = TemplatePart(self._disguise(text), turn=turn)
        return char

    def _fields(
        self, value: _Show, content: Callable[[int, str], str] | None = None
    ) -> dict[str, Any]:
        """Returns what a template reads, with texts as the functions give them."""
        found = []
        for index, message in enumerate(self._conversation.messages):
            said = message.content
            said = content(index, said) if content else value(said)
            fields: dict[str, Any] = {"role": message.role, "content": said}
            if message.tool_calls:
                fields["tool_calls"] = [_call(one, value) for one in message.tool_calls]
            for name in ("tool_call_id", "name"):
                if text := getattr(message, name):
                    fields[name] = value(text)
            found.append(fields)
        tools = [_values(json.loads(tool), value) for tool in self._conversation.tools]
        return {"messages": found, "tools": tools or None}


def _call(call: ToolCall, show: _Show) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        arguments = call.arguments
    function = {"name": call.name, "arguments": arguments}
    found = {"type": "function", "function": _values(function, show)}
    return found | ({"id": show(call.id)} if call.id else {})


def _values(value: Any, show: _Show) -> Any:
    """Returns JSON with its texts as they are shown."""
    if isinstance(value, dict):
        return {show(key): _values(of, show) for key, of in value.items()}
    if isinstance(value, list):
        return [_values(item, show) for item in value]
    return show(value) if isinstance(value, str) else value

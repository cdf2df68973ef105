"""Text of an output while its tokens come, and how it ends."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from nemojax.inference.engine.outputs import STOP, TokenDelta, TokenScores
from nemojax.inference.text.text_stream import TextStream
from nemojax.interop.loading import LoadedModel


class TokenPlace(NamedTuple):
    """Place of a token in a text.

    Attributes:
      offset: characters before those that it writes or helps to write.
      first: whether no token before it writes any.
    """

    offset: int
    first: bool


@dataclasses.dataclass
class TextDelta:
    """New text and tokens of an output, or the whole of it.

    Attributes:
      text: without the stop token and what follows a stop string.
      scores: tokens; a stop token is the last.
      places: places of the tokens, where they are wanted.
      finish_reason: "stop" or "length" when the output has ended.
      prompt: see `TokenDelta.prompt`.
    """

    text: str = ""
    scores: TokenScores = dataclasses.field(default_factory=TokenScores)
    places: list[TokenPlace] = dataclasses.field(default_factory=list)
    finish_reason: str | None = None
    prompt: TokenScores | None = None

    def extend(self, other: "TextDelta") -> None:
        """Appends the delta that follows."""
        self.text += other.text
        self.scores.extend(other.scores)
        self.places.extend(other.places)
        self.finish_reason = other.finish_reason or self.finish_reason
        self.prompt = other.prompt or self.prompt


class OutputText:
    """Converts the tokens of one output to text.

    Control tokens of a model have no text, and neither have the ids that only round its
    vocabulary up.
    """

    def __init__(
        self,
        model: LoadedModel,
        stops: Sequence[str] = (),
        closing: str = "",
        *,
        before: Sequence[int] = (),
        places: bool = False,
    ):
        """Begins an empty output.

        Args:
          model: model that gives the text of tokens.
          stops: strings before which the text ends.
          closing: text before a stop token that is the template's, not the output's.
          before: tokens of the text that the output goes on with.
          places: whether the places of the tokens are wanted.
        """
        self._stream = TextStream(model, stops, before)
        self._model, self._closing, self._held = model, closing, ""
        self._by_token, self._places = bool(stops) or places, places
        self._first = True

    def take(self, delta: TokenDelta) -> TextDelta:
        """Converts a delta."""
        found = TextDelta(finish_reason=delta.finish_reason, prompt=delta.prompt)
        new = delta.new
        by_token = delta.finish_reason == STOP
        tokens = new.tokens[:-1] if by_token else new.tokens
        count = 0
        for piece in [[token] for token in tokens] if self._by_token else [tokens]:
            found.text += self._stream.push(piece)
            self._add_place(found, self._stream.place, piece)
            count += len(piece)
            if self._stream.stopped:
                new = TokenScores(
                    new.tokens[:count], new.log_probs[:count], new.top[:count]
                )
                break
        found.scores = new
        if found.finish_reason and not self._stream.stopped:
            found.text += self._stream.finish()
        if by_token and new is delta.new:
            self._add_place(found, self._stream.length, ())
        if self._stream.stopped:
            found.finish_reason, by_token = STOP, False
        last = found.finish_reason is not None
        found.text = self._hold(found.text, by_token, last)
        return found

    def _add_place(self, found: TextDelta, offset: int, piece: Sequence[int]) -> None:
        if self._places:
            found.places.append(TokenPlace(offset, self._first))
            wrote = any(self._model.token_bytes(token) for token in piece)
            self._first = self._first and not wrote

    def _hold(self, text: str, by_token: bool, last: bool) -> str:
        """Keeps back text that may be the closing one."""
        text, self._held = self._held + text, ""
        if by_token:
            return text.removesuffix(self._closing)
        if not last and self._closing and text.endswith(self._closing):
            text, self._held = text.removesuffix(self._closing), self._closing
        return text

"""Text of an output while its tokens come, and how it ends."""

import dataclasses
from collections.abc import Sequence

from nemojax.inference.engine.outputs import STOP, TokenDelta, TokenScores
from nemojax.inference.text.text_stream import TextStream
from nemojax.interop.loading import LoadedModel


@dataclasses.dataclass
class TextDelta:
    """New text and tokens of an output, or the whole of it.

    Attributes:
      text: without the stop token and what follows a stop string.
      scores: tokens; a stop token is the last.
      finish_reason: "stop" or "length" when the output has ended.
      prompt: see `TokenDelta.prompt`.
    """

    text: str = ""
    scores: TokenScores = dataclasses.field(default_factory=TokenScores)
    finish_reason: str | None = None
    prompt: TokenScores | None = None

    def extend(self, other: "TextDelta") -> None:
        """Appends the delta that follows."""
        self.text += other.text
        self.scores.extend(other.scores)
        self.finish_reason = other.finish_reason or self.finish_reason
        self.prompt = other.prompt or self.prompt


class OutputText:
    """Converts the tokens of one output to text.

    Control tokens of a model have no text, and neither have the ids that only round its
    vocabulary up.
    """

    def __init__(
        self, model: LoadedModel, stops: Sequence[str] = (), closing: str = ""
    ):
        """Begins an empty output.

        Args:
          model: model that gives the text of tokens.
          stops: strings before which the text ends.
          closing: text before a stop token that is the template's, not the output's.
        """
        self._stream = TextStream(model, stops)
        self._stops, self._closing, self._held = tuple(stops), closing, ""

    def take(self, delta: TokenDelta) -> TextDelta:
        """Converts a delta."""
        found = TextDelta(finish_reason=delta.finish_reason, prompt=delta.prompt)
        new = delta.new
        tokens = new.tokens[:-1] if delta.finish_reason == STOP else new.tokens
        if not self._stops:
            found.text = self._stream.push(tokens)
        for place, token in enumerate(tokens if self._stops else ()):
            found.text += self._stream.push([token])
            if self._stream.stopped:
                count = place + 1
                new = TokenScores(
                    new.tokens[:count], new.log_probs[:count], new.top[:count]
                )
                found.finish_reason = STOP
                break
        found.scores = new
        by_token = found.finish_reason == STOP and not self._stream.stopped
        if found.finish_reason and not self._stream.stopped:
            found.text += self._stream.finish()
            if self._stream.stopped:
                found.finish_reason = STOP
        last = found.finish_reason is not None
        found.text = self._hold(found.text, by_token, last)
        return found

    def _hold(self, text: str, by_token: bool, last: bool) -> str:
        """Keeps back text that may be the closing one."""
        text, self._held = self._held + text, ""
        if by_token:
            return text.removesuffix(self._closing)
        if not last and self._closing and text.endswith(self._closing):
            text, self._held = text.removesuffix(self._closing), self._closing
        return text

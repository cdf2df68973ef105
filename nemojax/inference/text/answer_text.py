"""An answer while it comes: its text, its tokens, and how it ends."""

import dataclasses
from collections.abc import Sequence

from nemojax.inference.engine.answers import STOP, Delta, Scored
from nemojax.inference.text.text_stream import TextStream
from nemojax.interop.loading import LoadedModel


@dataclasses.dataclass
class Piece:
    """What came of an answer, or all that came.

    Attributes:
      text: without the stop token and what follows a stop string.
      scored: tokens; a stop token is the last.
      finish: "stop" or "length" when it has ended.
      prompt: see `Delta.prompt`.
    """

    text: str = ""
    scored: Scored = dataclasses.field(default_factory=Scored)
    finish: str | None = None
    prompt: Scored | None = None

    def extend(self, other: "Piece") -> None:
        """Puts another behind this one."""
        self.text += other.text
        self.scored.extend(other.scored)
        self.finish = other.finish or self.finish
        self.prompt = other.prompt or self.prompt


class AnswerText:
    """What the tokens of one answer write.

    The control tokens of a model write nothing, and neither do the ids that only round
    its vocabulary up.
    """

    def __init__(
        self, model: LoadedModel, stops: Sequence[str] = (), closing: str = ""
    ):
        """Begins an empty answer.

        Args:
          model: gives the text of tokens.
          stops: strings before which the text ends.
          closing: text before a stop token that is the template's, not the answer's.
        """
        self._stream = TextStream(model, stops)
        self._closing, self._held = closing, ""

    def take(self, delta: Delta) -> Piece:
        """The piece that a delta is."""
        piece = Piece(finish=delta.finish, prompt=delta.prompt)
        new = delta.new
        for place, token in enumerate(new.tokens):
            ends = delta.finish == STOP and place == len(new.tokens) - 1
            if not ends:
                piece.text += self._stream.push([token])
            if self._stream.stopped:
                count = place + 1
                new = Scored(new.tokens[:count], new.log_probs[:count], new.top[:count])
                piece.finish = STOP
                break
        piece.scored = new
        by_token = piece.finish == STOP and not self._stream.stopped
        if piece.finish and not self._stream.stopped:
            piece.text += self._stream.finish()
            if self._stream.stopped:
                piece.finish = STOP
        piece.text = self._hold(piece.text, by_token, piece.finish is not None)
        return piece

    def _hold(self, text: str, by_token: bool, last: bool) -> str:
        """Keeps back what may be the closing text."""
        text, self._held = self._held + text, ""
        if by_token:
            return text.removesuffix(self._closing)
        if not last and self._closing and text.endswith(self._closing):
            text, self._held = text.removesuffix(self._closing), self._closing
        return text

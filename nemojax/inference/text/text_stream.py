"""Text of an output while its tokens come: whole characters, until a stop string."""

from collections.abc import Iterable, Sequence
from typing import Protocol

_BROKEN = "\ufffd"


class Decoder(Protocol):
    """Protocol of a tokenizer that decodes."""

    def decode(self, ids: Iterable[int]) -> str:
        """Decodes tokens; an incomplete character becomes U+FFFD."""
        ...


class TextStream:
    """Turns tokens into pieces of text that add up to the text of all of them.

    A character whose bytes are not all there waits, and so does what could be the
    beginning of a stop string. The text ends before the stop string that is complete
    first, the longest of those that are complete at the same character, however the
    tokens are cut.

    Attributes:
      stopped: whether a stop string has come; nothing comes after it.
    """

    def __init__(self, decoder: Decoder, stop: Sequence[str] = ()):
        """Begins an empty text; `stop` holds strings of at least one character."""
        self.stopped = False
        self._decoder, self._stop = decoder, tuple(stop)
        self._held = max((len(string) for string in stop), default=1) - 1
        self._window: list[int] = []  # tokens from a while before the first unread
        self._known = 0  # of these, how many are text already
        self._text = ""  # not given yet
        self._searched = 0  # characters of it in which no stop string ends

    def push(self, tokens: Iterable[int]) -> str:
        """Adds tokens; returns the text that is certain now and was not before."""
        tokens = list(tokens)
        if tokens and not self.stopped:
            self._read(tokens, last=False)
        return self._give(self._held)

    def finish(self) -> str:
        """Returns the rest of the text, when no more tokens come."""
        if not self.stopped:
            self._read((), last=True)
        return self._give(0)

    def _read(self, tokens: Iterable[int], *, last: bool) -> None:
        self._window += tokens
        before = self._decoder.decode(self._window[: self._known])
        now = self._decoder.decode(self._window)
        if now.endswith(_BROKEN) and not last:
            return
        self._text += now[len(before) :]
        # A token's text can depend on what stands before it, so something stays: some
        # tokenizers take a space from where no text is yet.
        newest = self._window[self._known :]
        if self._decoder.decode(newest):
            self._window = newest
        self._known = len(self._window)
        self._look_for_stop()

    def _look_for_stop(self) -> None:
        found: list[tuple[int, int]] = []  # where it ends, where it begins
        for string in self._stop:
            begin = self._text.find(string, max(0, self._searched - len(string) + 1))
            if begin >= 0:
                found.append((begin + len(string), begin))
        self._searched = len(self._text)
        if found:
            self._text = self._text[: min(found)[1]]
            self.stopped = True

    def _give(self, held: int) -> str:
        if self.stopped:
            held = 0
        cut = max(0, len(self._text) - held)
        text, self._text = self._text[:cut], self._text[cut:]
        self._searched = max(0, self._searched - cut)
        return text

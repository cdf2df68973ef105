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
      length: characters read, whether given or not.
      place: characters before those that the newest token writes or helps to write.
    """

    def __init__(
        self, decoder: Decoder, stop: Sequence[str] = (), before: Sequence[int] = ()
    ):
        """Begins an empty text.

        Args:
          decoder: decodes the tokens.
          stop: strings of at least one character.
          before: tokens of the text that this one goes on with.
        """
        self.stopped, self.length, self.place = False, 0, 0
        self._decoder, self._stop = decoder, tuple(stop)
        self._held = max((len(string) for string in stop), default=1) - 1
        # Tokens from a while before the first unread; of these, how many are text
        # already, and what they write; what all of them write.
        self._window = _tail(decoder, before)
        self._known = len(self._window)
        self._before = self._now = decoder.decode(self._window)
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
        earlier, before = self._now, self._before
        self._window += tokens
        now = self._now = self._decoder.decode(self._window)
        if not now.startswith(before):  # it left a character open
            before = before.rstrip(_BROKEN)
        waits = now.endswith(_BROKEN) and not last
        self.place = self.length
        if earlier != self._before:  # tokens wait, of which this one need not be a part
            same = earlier.rstrip(_BROKEN) if waits else earlier
            while not now.startswith(same):
                same = same[:-1]
            self.place += max(0, len(same) - len(before))
        if waits:
            return
        self._text += now[len(before) :]
        self.length += len(now) - len(before)
        # A token's text can depend on what stands before it, so something stays: some
        # tokenizers take a space from where no text is yet.
        newest = self._window[self._known :]
        if text := self._decoder.decode(newest):
            self._window, self._now = newest, text
        self._before, self._known = self._now, len(self._window)
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


def offsets(decoder: Decoder, tokens: Sequence[int]) -> list[int]:
    """Returns how many characters of a text stand before each of its tokens."""
    stream, found = TextStream(decoder), []
    for token in tokens:
        stream.push([token])
        found.append(stream.place)
    return found


def _tail(decoder: Decoder, tokens: Sequence[int]) -> list[int]:
    """Returns the last tokens, as many as begin with a whole character."""
    size = 8
    while size < len(tokens):
        text = decoder.decode(tokens[-size:])
        if text and not text.startswith(_BROKEN):
            break
        size *= 2
    return list(tokens[-size:])

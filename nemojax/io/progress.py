"""One line of progress with the time left."""

import sys
import time
from typing import IO


class Progress:
    """A line of progress: rewritten in a terminal, written every 10 % elsewhere."""

    def __init__(self, name: str, stream: IO[str] | None = None):
        """Shows nothing yet.

        Args:
          name: name of what is under way.
          stream: stream to write to; default: stderr.
        """
        self._name, self._stream = name, stream or sys.stderr
        self._first: tuple[int, float] | None = None  # done, and when
        self._shown, self._tenth = 0.0, -1

    def note(self, text: str) -> None:
        """Says what goes on before there is anything to count."""
        terminal = self._stream.isatty()
        start, end = ("\r\x1b[2K", "") if terminal else ("", "\n")
        self._stream.write(f"{start}{self._name:<16} {text}{end}")
        self._stream.flush()

    def show(self, done: int, total: int, text: str = "") -> None:
        """Reports `done` of `total`, at most 5 times a second and at the end."""
        now, total = time.monotonic(), max(1, total)
        if self._first is None:
            self._first = done, now
        terminal, tenth = self._stream.isatty(), 10 * done // total
        due = now - self._shown > 0.2 if terminal else tenth != self._tenth
        if not due and done < total:
            return
        self._shown, self._tenth = now, tenth
        first, start = self._first
        left = (now - start) / (done - first) * (total - done) if done > first else None
        eta = f"{format_seconds(left)} left" if left is not None else ""
        line = f"{self._name:<16} {done:>6}/{total} {text}  {eta}"
        if terminal:
            end = "\n" if done >= total else ""
            self._stream.write(f"\r\x1b[2K{line}{end}")
        else:
            self._stream.write(line.rstrip() + "\n")
        self._stream.flush()


def format_seconds(seconds: float) -> str:
    """Formats seconds: `75` -> "1m15s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"

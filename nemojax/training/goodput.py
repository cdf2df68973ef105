"""Time of a run by kind: productive steps, and all that is not."""

import contextlib
import pathlib
import time
from collections.abc import Iterator

from nemojax.io import sealed

GOODPUT = "goodput.jsonl"
# What an attempt at a run spends its time on. "lost" are steps of an attempt before it
# that had not been saved; "start" is all before the first step.
KINDS: tuple[str, ...] = (
    "step",
    "start",
    "compile",
    "data",
    "validate",
    "save",
    "lost",
)


class Clock:
    """Seconds by kind; what is not spent otherwise is steps."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._spent = dict.fromkeys(KINDS, 0.0)

    @contextlib.contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """Counts the time inside as of this kind."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._spent[kind] += time.monotonic() - start

    def add(self, kind: str, seconds: float) -> None:
        """Counts seconds that another attempt spent."""
        self._spent[kind] += seconds
        self._began -= seconds

    def until_now(self, kind: str) -> None:
        """Counts all that is not of another kind yet as of this one."""
        self._spent[kind] += self.seconds["step"]

    @property
    def other_seconds(self) -> float:
        """Seconds in which no step was taken, nor waited for its data."""
        return sum(self._spent.values()) - self._spent["data"]

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds until now, by kind; they add up to all that went by."""
        other = sum(self._spent.values())
        step = max(0.0, time.monotonic() - self._began - other)
        return {kind: round(s, 3) for kind, s in (self._spent | {"step": step}).items()}


def write(directory: pathlib.Path, seconds: dict[str, float]) -> None:
    """Adds a line for this attempt."""
    with (directory / GOODPUT).open("a") as file:
        file.write(sealed.line(seconds))


def total(directory: pathlib.Path) -> dict[str, float]:
    """Sums over all attempts that could write their line."""
    found = dict.fromkeys(KINDS, 0.0)
    for line in sealed.read_lines(directory / GOODPUT):
        for kind, seconds in line.items():
            found[kind] += seconds
    return found


def text(seconds: dict[str, float]) -> str:
    """Formats `productive 97.1% (compile 1.2%, save 0.9%, ...)`."""
    whole = max(sum(seconds.values()), 1e-9)
    others = ", ".join(
        f"{kind} {value / whole:.1%}"
        for kind, value in sorted(seconds.items(), key=lambda item: -item[1])
        if kind != "step" and value / whole >= 0.0005
    )
    return f"productive {seconds['step'] / whole:.1%}" + (
        f" ({others})" if others else ""
    )

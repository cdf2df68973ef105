"""Ends of a run before its last step.

SIGTERM, or Ctrl-C, tells it to stop, between two steps, with everything saved; and it
ends where it does not get on any more. Does not import jax before it is needed.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

_FIRST = (
    b"\nstopping once this step is done and saved; Ctrl-C again: at once, unsaved\n"
)


class Stopped(Exception):
    """A run was requested to stop, and has saved its state.

    Attributes:
      interrupted: whether it was Ctrl-C.
    """

    interrupted = False


class Diverged(ArithmeticError):
    """Several steps in a row were not applied."""


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[int], bool]]:
    """Makes a function that says at a step whether to stop after it.

    All processes of a run get the same answer, also if one alone has the signal: jax's
    coordinator agrees on a step. Outside of the main thread nothing is listened to.
    """
    import jax
    from jax.experimental import multihost_utils

    # An Event has a lock, which a second signal would wait for.
    requested: list[int] = []
    several = jax.process_count() > 1
    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            if not several:
                stack.enter_context(_handled(signal.SIGTERM, requested.append))
            stack.enter_context(_interruptions())
        yield (
            multihost_utils.reached_preemption_sync_point
            if several
            else lambda step: bool(requested)
        )


@contextlib.contextmanager
def _handled(number: signal.Signals, call: Callable[[int], None]) -> Iterator[None]:
    before = signal.signal(number, lambda number, _: call(number))
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def _interruptions() -> Iterator[None]:
    """Makes the first Ctrl-C a SIGTERM, and leaves the second what it was.

    A shell's background jobs are started with it ignored: so it stays.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        yield
        return
    interrupted: list[int] = []

    def first(number: int) -> None:
        signal.signal(number, before)
        interrupted.append(number)
        os.write(2, _FIRST)  # what is being printed is not to be printed into
        signal.raise_signal(signal.SIGTERM)

    with _handled(signal.SIGINT, first):
        try:
            yield
        except Stopped as error:
            error.interrupted = bool(interrupted)
            raise
    if interrupted:  # after the last step had looked
        raise KeyboardInterrupt

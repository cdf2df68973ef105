"""Ends of a run before its last step.

SIGTERM tells it to stop, between two steps, with everything saved; and it ends where it
does not get on any more. Does not import jax before it is needed.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


class Stopped(Exception):
    """A run was requested to stop, and has saved its state."""


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

    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    requested = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: requested.set())
    try:
        yield lambda step: requested.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)

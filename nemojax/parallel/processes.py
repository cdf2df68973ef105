"""Agreement of the processes of a run. With one process nothing is sent anywhere."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from nemojax.errors import UserError


class FirstProcessError(UserError):
    """Error of the first process, raised in the others."""


def is_process_0() -> bool:
    """Returns whether this process writes and reports for all."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def total(number: int) -> int:
    """Sums a number over all processes."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).sum())


def broadcast_from_process_0(make: Callable[[], Any]) -> Any:
    """Calls a function in process 0 and returns its result on every process.

    For what one process alone may do or see at a time: locks, folders, small files.

    Args:
      make: function called in process 0; gives what JSON can hold.

    Raises:
      FirstProcessError: in the others, with the message, where it raises an error in
        the first; there the error itself.
    """
    if jax.process_count() == 1:
        return make()
    value, error = None, None
    if is_process_0():
        try:
            value = make()
        except Exception as raised:
            error = raised
    message = None if error is None else f"{type(error).__name__}: {error}"
    text = np.frombuffer(json.dumps([value, message]).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    # Others send zeros of the same shape; they are not looked at.
    sent = text if is_process_0() else np.zeros(size, np.uint8)
    value, message = json.loads(
        np.asarray(multihost_utils.broadcast_one_to_all(sent)).tobytes()
    )
    if error is not None:
        raise error
    if message is not None:
        raise FirstProcessError(f"the first process ended with {message}")
    return value


def broadcast_array_from_process_0(array: np.ndarray) -> np.ndarray:
    """Returns process 0's array, bit for bit; all have its shape and dtype."""
    if jax.process_count() == 1:
        return array
    # As bits: values go through a sum, which loses -0 and what is not normal.
    bits = np.frombuffer(array.tobytes(), np.uint8)
    sent = np.array(multihost_utils.broadcast_one_to_all(bits))
    return sent.view(array.dtype).reshape(array.shape)

"""Errors of devices that do not start or are too small, told in one line.

This module does not import jax: errors are recognised by their text and their place.
"""

import contextlib
import logging
import os
import re
import traceback
from collections.abc import Iterator

from absl import flags

from nemojax.errors import UserError
from nemojax.parallel import fitness, machine

FLAGS = flags.FLAGS
_BRIDGE = "xla_bridge.py"  # the module of jax that starts devices
_NO_DEVICES = re.compile("Unable to initialize backend|Unknown backend")
# Exhausted may be other things, such as the size of a message.
_NO_MEMORY = re.compile("RESOURCE_EXHAUSTED: (.*(memory|allocat).*)", re.IGNORECASE)
_TRACEBACKS = "JAX_TRACEBACK_FILTERING"  # "off" shows all of a traceback
# Flags that make a program smaller, and how.
_SMALLER = {
    "parallel.rows": "--parallel.rows=1",
    "parallel.remat": "--parallel.remat=full",
    "parallel.zero": "--parallel.zero=3 on several devices",
    "quantize": "--quantize=int8",
    "slots": "fewer --slots",
    "batch_tokens": "fewer --batch_tokens",
    "batch": "a smaller --batch",
    "length": "a smaller --length",
}


def refuse_unfit() -> None:
    """Refuses a machine on which jax is certain not to find its GPUs.

    Raises:
      UserError: the packages do not fit together.
    """
    for line in fitness.refusals(machine.installed())[:1]:
        raise UserError(f"{line}{fitness.MORE}")


def no_devices(error: BaseException) -> str:
    """Returns what a user can do where jax's devices did not start; "": another error.

    Args:
      error: what a command ended with.
    """
    frames = traceback.extract_tb(error.__traceback__)
    in_bridge = bool(frames) and os.path.basename(frames[-1].filename) == _BRIDGE
    failed = isinstance(error, RuntimeError) and _NO_DEVICES.match(str(error))
    # jax asserts that there is a backend, without a word.
    if not failed and not (in_bridge and isinstance(error, AssertionError)):
        return ""
    return fitness.explain(machine.look(), str(error) or "none was found")


def no_memory(error: BaseException | None) -> str:
    """Returns what a user can do where a device is too small; "": another error.

    Args:
      error: what a command ended with; one that caused it counts, too.
    """
    if os.environ.get(_TRACEBACKS) == "off":
        return ""
    while error is not None and not _NO_MEMORY.search(str(error)):
        error = error.__cause__ or error.__context__
    found = _NO_MEMORY.search(str(error))
    if found is None:
        return ""
    ways = [way for name, way in _SMALLER.items() if name in FLAGS]
    return (
        f"the devices are too small: {fitness.short(found[1])}: take "
        f"{', or '.join([*ways, 'more or larger devices'])} (python -m "
        f"experiments.plan says what fits, {_TRACEBACKS}=off where it was)"
    )


@contextlib.contextmanager
def refused_fallback() -> Iterator[None]:
    """Raises where jax would go on without a GPU that is there.

    jax logs a plugin's error with its traceback and computes on the CPU. Without a GPU
    that is right, and nobody needs to know.
    """
    logger = logging.getLogger("jax._src.xla_bridge")

    def look(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        here = machine.installed()
        if here.nvidia and fitness.wants_cuda(here):
            raise UserError(fitness.explain(here, str(error))) from error
        return False

    logger.addFilter(look)
    try:
        yield
    finally:
        logger.removeFilter(look)

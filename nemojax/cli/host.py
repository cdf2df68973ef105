"""Settings of the machine that a command makes before jax starts.

This module does not import jax, so that the devices can still be chosen.
"""

import ctypes
import os

_DEVICE_COUNT = "--xla_force_host_platform_device_count"
# Of glibc's malloc.h: parameter and value.
_KEEP_MEMORY = (
    (-1, 2**31 - 1),  # M_TRIM_THRESHOLD: the end of the heap is not given back
    (-4, 0),  # M_MMAP_MAX: no block has a mapping of its own, given back when freed
    (-8, 1),  # M_ARENA_MAX: other heaps are too small for such blocks and map them
)


def prepare() -> None:
    """Sets the CPU device count and the malloc options; for the start of a process."""
    cpu_devices()
    keep_memory()


def cpu_devices(most: int = 2) -> None:
    """Splits a CPU into one jax device per core, `most` at the highest.

    Small models do not use several cores otherwise. Has no effect on accelerators,
    or where XLA_FLAGS sets the number, or once jax has looked for its devices.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _DEVICE_COUNT not in flags:
        count = min(most, _cores())
        os.environ["XLA_FLAGS"] = f"{flags} {_DEVICE_COUNT}={count}".strip()


def keep_memory() -> None:
    """Makes glibc keep freed memory in the process; without glibc does nothing.

    XLA's CPU client allocates a step's buffers anew each step. Mapped and unmapped
    each time, hundreds of megabytes of zeroed pages cost a fifth of a small step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in _KEEP_MEMORY:
            mallopt(parameter, value)


def _cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

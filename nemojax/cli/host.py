"""Settings of the machine that a command makes before jax looks for its devices."""

import contextlib
import ctypes
import hashlib
import os
import platform
from pathlib import Path

from nemojax.parallel import machine

_DEVICE_COUNT = "--xla_force_host_platform_device_count"
# Bytes of compiled programs that are kept.
_MOST_KEPT = 4 * 2**30
# Of glibc's malloc.h: parameter and value.
_KEEP_MEMORY = (
    (-1, 2**31 - 1),  # M_TRIM_THRESHOLD: the end of the heap is not given back
    (-4, 0),  # M_MMAP_MAX: no block has a mapping of its own, given back when freed
    (-8, 1),  # M_ARENA_MAX: other heaps are too small for such blocks and map them
)


def prepare() -> None:
    """Makes all settings of this module; for the start of a process."""
    cpu_devices()
    keep_memory()
    keep_compiled()


def cpu_devices(most: int = 2) -> None:
    """Splits a CPU into one jax device per core, `most` at the highest.

    Small models do not use several cores otherwise. Has no effect on accelerators,
    or where XLA_FLAGS sets the number, or once jax has looked for its devices.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _DEVICE_COUNT not in flags:
        count = min(most, machine.cores())
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


def keep_compiled() -> None:
    """Makes jax keep what it compiles for the next process, in the user's cache folder.

    That is `nemojax/compiled-*` in XDG_CACHE_HOME or in ~/.cache, one for each kind of
    processor, since homes are shared between machines and a program for a CPU runs on
    its kind alone. What was used least lately goes when 4 GiB are full. Has no effect
    where JAX_COMPILATION_CACHE_DIR or JAX_ENABLE_COMPILATION_CACHE decides, or where
    there is no home.
    """
    if os.environ.keys() & {
        "JAX_COMPILATION_CACHE_DIR",
        "JAX_ENABLE_COMPILATION_CACHE",
    }:
        return
    # A jax that cannot be imported is told by whoever needs it.
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        import jax  # does not look for devices yet

        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "nemojax" / f"compiled-{_processor()}"
        folder.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        _remove_oldest(folder, _MOST_KEPT)  # ends early where another process does it


def _remove_oldest(folder: Path, most: int) -> None:
    """Removes the files that were used least lately, until `most` bytes are left."""
    found = [(path, path.stat()) for path in folder.iterdir()]
    total = 0
    for path, status in sorted(found, key=lambda one: -one[1].st_atime):
        total += status.st_size
        if total > most:
            path.unlink(missing_ok=True)


def _processor() -> str:
    """Returns a name for what the processor can do."""
    lines: list[str] = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        kinds = ("model name", "flags", "Features", "CPU part")
        lines += sorted({line for line in file if line.startswith(kinds)})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]

"""Seconds of device programs, and what share of the hardware they are."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from nemojax.models.config import ModelConfig
from nemojax.planning import counts, hardware
from nemojax.planning.hardware import Hardware


class Timing(NamedTuple):
    """Seconds of one call: of the fastest repeat, and of the median one."""

    best: float
    median: float

    @property
    def milliseconds(self) -> dict[str, float]:
        """Columns of a row."""
        return {"ms": 1e3 * self.best, "median_ms": 1e3 * self.median}


def repeated(run: Callable[[int], Any], number: int, repeats: int) -> Timing:
    """Times `run(number)`, which makes so many calls and waits for the last one."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run(number)
        seconds.append((time.perf_counter() - start) / number)
    return Timing(min(seconds), statistics.median(seconds))


def timed(
    call: Callable[[], Any],
    number: int = 5,
    repeats: int = 3,
    wait: Callable[[Any], Any] = jax.block_until_ready,
) -> Timing:
    """Times calls in a row; the host waits for the device after the last one alone.

    Args:
      call: starts a program that is compiled at the first call, which is not timed.
      number: calls of a repeat.
      repeats: how often they are made.
      wait: waits for what a call returned.
    """

    def run(number: int) -> None:
        last = None
        for _ in range(number):
            last = call()
        wait(last)

    run(1)
    return repeated(run, number, repeats)


def card(device: str | None = None) -> Hardware | None:
    """Returns what is known of a device of that name; default: jax's; None: nothing."""
    kind = (device or jax.devices()[0].device_kind).lower().replace(" ", "_")
    return next((h for h in hardware.HARDWARE.values() if h.name in kind), None)


def rates(
    flops: float, causal_flops: float, seconds: float, device: str | None = None
) -> dict[str, Any]:
    """Returns TFLOP/s and percent of the peak, by both ways of counting.

    Args:
      flops: operations, attention counted as if it saw the future too.
      causal_flops: operations without those on masked scores.
      seconds: time that they took.
      device: name of the device; default: jax's.
    """
    found: dict[str, Any] = {}
    known = card(device)
    for prefix, count in (("", flops), ("causal_", causal_flops)):
        found[f"{prefix}tflops"] = count / seconds / 1e12
        found[f"{prefix}mfu_percent"] = (
            100 * count / seconds / known.peak_flops if known else None
        )
    return found


def training_rates(
    config: ModelConfig,
    rows: int,
    length: int,
    seconds: float,
    device: str | None = None,
) -> dict[str, Any]:
    """Returns `rates` of forward and backward passes over rows of a length."""
    whole, causal = (
        rows * counts.flops_per_sequence(config, length, causal=causal)
        for causal in (False, True)
    )
    return rates(whole, causal, seconds, device)

"""The layouts of so many devices, best first."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import ACCUMULATE, PIPELINES, LayoutSpec
from nemojax.planning import counts, memory, roofline
from nemojax.planning.hardware import Hardware
from nemojax.planning.scenario import Scenario

# What the estimate may be off by, and what the runtime keeps for itself.
USABLE = 0.92
_REMATS = ("none", "selective", "mlp_preactivation", "full")
_ROWS = (1, 2, 4)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A layout, what it needs and how fast it is predicted to be."""

    scenario: Scenario
    bytes_per_device: float
    prediction: roofline.Prediction


def fits(scenario: Scenario) -> bool:
    """Returns whether the estimate leaves room on each device."""
    return _needed(scenario) <= USABLE * scenario.hardware.memory_bytes


def _needed(scenario: Scenario) -> float:
    return sum(memory.per_device(scenario).values())


def search(
    config: ModelConfig,
    hardware: Hardware,
    devices: int,
    global_batch: int,
    length: int,
    assumptions: roofline.Assumptions | None = None,
) -> list[Candidate]:
    """Returns all layouts that fit, the fastest first; empty if none does."""
    found = []
    for scenario in _scenarios(config, hardware, devices, global_batch, length):
        if not fits(scenario):
            continue
        found.append(
            Candidate(
                scenario,
                _needed(scenario),
                roofline.predict(scenario, assumptions),
            )
        )
    return sorted(found, key=lambda candidate: candidate.prediction.step_seconds)


def enough_devices(
    config: ModelConfig, hardware: Hardware, devices: int, batch: int, length: int
) -> int | None:
    """Returns the first of twice, four times, ... as many devices with a layout.

    None where 1,024 times as many have none.
    """
    # Weights and Adam's two moments in float32, split over all devices.
    least = 12 * counts.parameters(config).total / (USABLE * hardware.memory_bytes)
    for doublings in range(1, 11):
        more = devices * 2**doublings
        if more >= least and any(
            fits(one) for one in _scenarios(config, hardware, more, batch, length)
        ):
            return more
    return None


def smaller_batch(
    config: ModelConfig, hardware: Hardware, devices: int, batch: int, length: int
) -> int | None:
    """Returns the first of a batch's half, quarter, ... with a layout, or None."""
    while batch % 2 == 0:
        batch //= 2
        scenarios = _scenarios(config, hardware, devices, batch, length)
        if any(fits(scenario) for scenario in scenarios):
            return batch
    return None


def _scenarios(
    config: ModelConfig,
    hardware: Hardware,
    devices: int,
    global_batch: int,
    length: int,
) -> Iterator[Scenario]:
    seen = set()
    for tensor in _divisors(min(devices, hardware.fast_domain)):
        if devices % tensor:
            continue
        for pipe in _divisors(devices // tensor):
            if config.num_layers % pipe:
                continue
            data = devices // tensor // pipe
            for options in _options(config, data, pipe):
                try:
                    spec = LayoutSpec(data=data, pipe=pipe, tensor=tensor, **options)
                    found = Scenario(config, hardware, spec, global_batch, length)
                except ValueError:  # sizes that do not divide
                    continue
                # Different options may mean the same passes and micro-batches.
                if (found.layout, found.passes) not in seen:
                    seen.add((found.layout, found.passes))
                    yield found


def _options(config: ModelConfig, data: int, pipe: int) -> Iterator[dict[str, Any]]:
    single = pipe == 1
    choices = {
        "virtual_stages": [1] if single else _divisors(config.num_layers // pipe),
        "remat": _REMATS,
        "rows": _ROWS,
        "passes": (0, 1) if single else (0,),
        "zero": (1, 3) if single and data > 1 else (1,),
        "accumulate": ACCUMULATE,
        "pipeline": ("gpipe",) if single else PIPELINES,
    }
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def nearest(scenario: Scenario) -> Candidate | None:
    """Returns the layout that fits on the same devices with the fewest changes."""
    candidates = search(
        scenario.config,
        scenario.hardware,
        scenario.devices,
        scenario.global_batch,
        scenario.length,
    )
    now = dataclasses.asdict(scenario.spec)

    def changes(candidate: Candidate) -> int:
        then = dataclasses.asdict(candidate.scenario.spec)
        return sum(then[name] != value for name, value in now.items())

    return min(candidates, key=changes, default=None)

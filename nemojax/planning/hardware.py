"""Performance of accelerators, as their makers publish it."""

import dataclasses

from nemojax.errors import UserError

GB = 1e9


@dataclasses.dataclass(frozen=True)
class Hardware:
    """One accelerator and its networks.

    Attributes:
      name: name as given to `--hardware`.
      title: name in full.
      platform: "cuda" or "tpu".
      peak_flops: dense bfloat16 operations per second.
      memory_bytes: bytes that a program can use.
      memory_bandwidth: bytes per second.
      fast_bandwidth: bytes per second that a device sends over the network inside of
        a node (NVLink), or along one axis of a torus (ICI).
      slow_bandwidth: bytes per second between nodes.
      fast_domain: devices that the fast network joins.
      compute_capability: compute capability of a CUDA device.
      cores: multiprocessors of a CUDA device.
      clock_mhz: clock of a CUDA device, in MHz.
    """

    name: str
    title: str
    platform: str
    peak_flops: float
    memory_bytes: float
    memory_bandwidth: float
    fast_bandwidth: float
    slow_bandwidth: float
    fast_domain: int
    compute_capability: tuple[int, int] = (0, 0)
    cores: int = 0
    clock_mhz: int = 0


_ALL = (
    Hardware(
        "h100", "NVIDIA H100 80GB HBM3", "cuda", 989e12, 84_942_979_072, 3.35e12,
        450 * GB, 50 * GB, 8, (9, 0), 132, 1980,
    ),
    Hardware(
        "h200", "NVIDIA H200", "cuda", 989e12, 150_000_000_000, 4.8e12,
        450 * GB, 50 * GB, 8, (9, 0), 132, 1980,
    ),
    Hardware(
        "a100", "NVIDIA A100-SXM4-80GB", "cuda", 312e12, 85_000_000_000, 2.04e12,
        300 * GB, 25 * GB, 8, (8, 0), 108, 1410,
    ),
    Hardware(
        "tpu_v5p", "TPU v5p", "tpu", 459e12, 102_000_000_000, 2.765e12,
        180 * GB, 180 * GB, 8960,
    ),
    Hardware(
        "tpu_v6e", "TPU v6e", "tpu", 918e12, 34_000_000_000, 1.64e12,
        180 * GB, 180 * GB, 256,
    ),
)  # fmt: skip
HARDWARE = {hardware.name: hardware for hardware in _ALL}


def get(name: str) -> Hardware:
    """Returns the accelerator of that name.

    Raises:
      UserError: there is none; names those that there are.
    """
    if name not in HARDWARE:
        raise UserError(f"unknown hardware {name!r}; one of {', '.join(HARDWARE)}")
    return HARDWARE[name]

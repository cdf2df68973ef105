"""Facts about the machine that decide whether jax can use its accelerators.

Looking does not import jax, which may be what does not start, unless its devices are
asked for. Whether the facts fit together is said in `fitness`.
"""

import csv
import dataclasses
import importlib.metadata
import os
import re
import resource
import subprocess
from collections.abc import Mapping
from typing import Any

MIB = 2**20
CUDA = ("13", "12")  # major versions that jax has plugins for
PLUGINS = tuple(f"jax-cuda{major}-plugin" for major in CUDA)
_PACKAGES = (
    *("jax", "jaxlib", "libtpu", *PLUGINS),
    *(f"jax-cuda{major}-pjrt" for major in CUDA),
    *(f"nvidia-{part}-cu{major}" for major in CUDA for part in ("cudnn", "nccl")),
    *("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"),
    *("nvidia-cublas", "nvidia-cublas-cu12"),
)
# What decides how jax, XLA and NCCL run.
_VARIABLES = re.compile(
    "JAX_|XLA_|NCCL_|LIBTPU_|TF_GPU_|CUDA_VISIBLE|NVIDIA_|LD_LIBRARY_PATH"
)
_DEVICE_FILES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
_QUERY = "index,name,driver_version,compute_cap,memory.total,memory.used"


@dataclasses.dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as its driver describes it, whether or not jax can use it.

    Attributes:
      index: number in `nvidia-smi`.
      name: name of the card.
      driver: version of the driver.
      capability: compute capability, such as (9, 0); (0, 0): unknown.
      memory_bytes: bytes of the card.
      used_bytes: bytes that processes hold.
    """

    index: int
    name: str
    driver: str
    capability: tuple[int, int] = (0, 0)
    memory_bytes: int = 0
    used_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Device:
    """A device that jax has started.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      kind: name of the card.
      limit_bytes: bytes that jax may take; 0: unknown.
      pinned: whether arrays can lie in pinned memory of the host.
    """

    platform: str
    kind: str
    limit_bytes: int = 0
    pinned: bool = False


@dataclasses.dataclass(frozen=True)
class Machine:
    """Facts about a machine; what was not looked at is empty.

    Attributes:
      versions: version of each installed package that matters.
      minimum: package -> lowest version that the installed jax and plugin name.
      environment: variables that decide how jax, XLA and NCCL run.
      nvidia: whether device files of an NVIDIA GPU are there.
      gpus: GPUs of `nvidia-smi`.
      devices: devices of this process in jax.
      error: why jax has no devices.
      cores: cores that this process may use.
      memory_bytes: memory of the host; 0: unknown.
      locked_bytes: memory that this process may pin; -1: any.
    """

    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    minimum: Mapping[str, str] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    nvidia: bool = False
    gpus: tuple[Gpu, ...] = ()
    devices: tuple[Device, ...] = ()
    error: str = ""
    cores: int = 1
    memory_bytes: int = 0
    locked_bytes: int = -1

    @property
    def plugins(self) -> list[str]:
        """Names of the installed plugins for CUDA."""
        return [name for name in PLUGINS if name in self.versions]


def installed() -> Machine:
    """Looks at packages and variables alone, which takes milliseconds."""
    versions, minimum = {}, {}
    for name in _PACKAGES:
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        versions[name] = found.version
        if name == "jax" or name in PLUGINS:
            minimum |= minimums(found.requires or ())
    environment = {k: v for k, v in os.environ.items() if _VARIABLES.match(k)}
    nvidia = any(map(os.path.exists, _DEVICE_FILES))
    return Machine(versions, minimum, dict(sorted(environment.items())), nvidia)


def look(devices: bool = False) -> Machine:
    """Looks at everything; takes a second where there is a GPU.

    Args:
      devices: whether to start jax's devices as well; what goes wrong is in `error`.
    """
    found = dataclasses.replace(
        installed(),
        gpus=_nvidia_smi(),
        cores=cores(),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        locked_bytes=resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
    )
    if not devices:
        return found
    try:
        import jax

        return dataclasses.replace(
            found, devices=tuple(map(_device, jax.local_devices()))
        )
    except Exception as error:  # of jax, of a plugin, or of what these load
        reason = " ".join(str(error).split()) or "none was found"
        return dataclasses.replace(found, error=reason)


def cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def minimums(requirements: tuple[str, ...] | list[str]) -> dict[str, str]:
    """Reads the lowest versions out of requirements such as "a<2,>=1; extra == 'b'"."""
    found = {}
    for line in requirements:
        package, _, marker = line.partition(";")
        least = re.match(r"([\w.-]+).*>=\s*([\w.]+)", package)
        # Other extras are those of other accelerators.
        if least and ("extra" not in marker or "with-cuda" in marker):
            found[least[1]] = least[2]
    return found


def gpus(listed: str) -> tuple[Gpu, ...]:
    """Reads what `nvidia-smi` lists of each GPU, as comma-separated values."""
    rows = csv.reader(listed.splitlines(), skipinitialspace=True)
    return tuple(_gpu(*row) for row in rows if len(row) == len(_QUERY.split(",")))


def _gpu(index: str, name: str, driver: str, capability: str, *mib: str) -> Gpu:
    """Makes a GPU of a row; what the driver does not know it writes as "[N/A]"."""
    whole = re.fullmatch(r"(\d+)\.(\d+)", capability)
    numbers = [int(text) * MIB if text.isdecimal() else 0 for text in mib]
    level = (int(whole[1]), int(whole[2])) if whole else (0, 0)
    return Gpu(int(index), name, driver, level, *numbers)


def _nvidia_smi() -> tuple[Gpu, ...]:
    """Asks the driver for its GPUs; without one there are none."""
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return gpus(done.stdout) if done.returncode == 0 else ()


def _device(device: Any) -> Device:
    """Describes a device of jax."""
    limit = (device.memory_stats() or {}).get("bytes_limit", 0)
    kinds = {memory.kind for memory in device.addressable_memories()}
    return Device(device.platform, device.device_kind, limit, "pinned_host" in kinds)

"""Judgement of a machine: do its parts fit together, and what mends it if not.

Pure functions of a `machine.Machine`: every line says what is wrong and what mends it.
"""

import re
from collections.abc import Iterator

from nemojax.parallel.machine import CUDA, MIB, Gpu, Machine

# NVIDIA's table of minor-version compatibility: major version of CUDA -> first driver.
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
DRIVERS = {"12": 525, "13": 580}
# Lowest compute capability that jax is built for (its installation guide).
CAPABILITIES = {"12": (5, 2), "13": (7, 5)}
_SHARED = ("cudnn", "nccl")  # both versions of these write the same files
_FRACTION, _PREALLOCATE = (
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
)
MORE = "; python -m experiments.doctor says more"
_ELSE = "or set JAX_PLATFORMS=cpu to compute on the CPU"


def refusals(machine: Machine) -> list[str]:
    """Lists what is certain to go wrong; it can be told before jax starts.

    Without an NVIDIA GPU that is only what JAX_PLATFORMS asks for.
    """
    sure = machine.nvidia or _named(machine)
    return list(_plugins(machine)) if sure and wants_cuda(machine) else []


def problems(machine: Machine) -> list[str]:
    """Lists all that is wrong, what is likely the cause of the rest first."""
    found = [*_platforms(machine), *_versions(machine)]
    if wants_cuda(machine):
        found = [*_plugins(machine), *found]
        found += _shared_files(machine)
        found += [line for gpu in _visible(machine) for line in _gpu(machine, gpu)]
    return [*found, *_devices(machine)]


def explain(machine: Machine, reason: str) -> str:
    """Says in one line why jax's devices did not start.

    Args:
      machine: facts about the machine.
      reason: message of jax's error; told where the facts do not explain it.
    """
    named = machine.environment.get("JAX_PLATFORMS")
    ways = [install(machine)] if machine.nvidia and wants_cuda(machine) else []
    ways.append(f"unset JAX_PLATFORMS={named}" if named else "set JAX_PLATFORMS=cpu")
    own = f"jax's devices do not start: {short(reason)}: {', or '.join(ways)}"
    return f"{[*problems(machine), own][0]}{MORE}"


def wants_cuda(machine: Machine) -> bool:
    """Returns whether jax will look for NVIDIA GPUs."""
    named = _named(machine)
    return not named or bool({"cuda", "gpu"} & set(named))


def install(machine: Machine) -> str:
    """Returns the command that installs what this machine's NVIDIA GPUs need."""
    fit = [
        major
        for major in CUDA
        if not any(
            0 < _major(gpu.driver) < DRIVERS[major]
            or (0, 0) < gpu.capability < CAPABILITIES[major]
            for gpu in machine.gpus
        )
    ] or [CUDA[-1]]
    there = [m for m in fit if f"jax-cuda{m}-plugin" in machine.versions]
    major = (there or fit)[0]
    other = next(m for m in CUDA if m != major)
    version = machine.versions.get("jax", "")
    command = f"pip install -U 'jax[cuda{major}]{'==' if version else ''}{version}'"
    if f"jax-cuda{other}-plugin" in machine.versions:
        others = f"jax-cuda{other}-plugin jax-cuda{other}-pjrt"
        command = f"pip uninstall -y {others} && {command}"
    return command


def for_gpu() -> str:
    """Says what an NVIDIA GPU would need, for who computes on something else."""
    return ", or ".join(
        f"jax[cuda{major}] with driver {DRIVERS[major]} or newer and compute "
        f"capability {_dotted(CAPABILITIES[major])} or higher"
        for major in CUDA
    )


def short(text: str, most: int = 300) -> str:
    """Returns jax's words in one line, without its advice and all beyond `most`."""
    line = " ".join(text.split())
    line = re.sub(r" \((set|you may need to) .*\)$", "", line).rstrip(".")
    return line if len(line) <= most else line[:most] + " …"


def _plugins(machine: Machine) -> Iterator[str]:
    """Compares the plugin for CUDA with jaxlib, which ignores any other version."""
    versions, jaxlib = machine.versions, machine.versions.get("jaxlib", "")
    if len(machine.plugins) > 1:
        both = " and ".join(machine.plugins)
        yield f"{both} are both installed, jax takes one: {install(machine)}"
        return
    for plugin in machine.plugins:
        for name in (plugin, plugin.replace("plugin", "pjrt")):
            if name in versions and _number(versions[name]) != _number(jaxlib):
                yield (
                    f"{name} {versions[name]} does not fit jaxlib {jaxlib}: they have "
                    f"to be of one version: {install(machine)}, {_ELSE}"
                )


def _platforms(machine: Machine) -> Iterator[str]:
    """Compares JAX_PLATFORMS with what is there."""
    named = _named(machine)
    text = f"JAX_PLATFORMS={','.join(named)}"
    if "cpu" in named:
        return
    if {"cuda", "gpu"} & set(named):
        if not machine.plugins:
            mend = install(machine)
            yield f"{text}, but no CUDA plugin is installed: {mend}, or unset it"
        elif not machine.nvidia:
            yield (
                f"{text}, but no NVIDIA GPU is visible: load the driver, give the "
                "container its GPUs (docker run --gpus=all), or unset it"
            )
    if "tpu" in named and "libtpu" not in machine.versions:
        mend = "pip install -U 'jax[tpu]'"
        yield f"{text}, but libtpu is not installed: {mend}, or unset it"


def _versions(machine: Machine) -> Iterator[str]:
    """Compares packages with the lowest versions that jax and its plugin name."""
    versions = machine.versions
    for name, least in machine.minimum.items():
        if name in versions and _number(versions[name]) < _number(least):
            mend = f"pip install -U {name}"
            yield f"{name} {versions[name]} is older than {least}: {mend}"
    jax, jaxlib = versions.get("jax", ""), versions.get("jaxlib", "")
    if jax and _number(jaxlib) > _number(jax):
        yield f"jaxlib {jaxlib} is newer than jax {jax}: pip install -U jax=={jaxlib}"


def _shared_files(machine: Machine) -> Iterator[str]:
    """Finds libraries that are installed for both versions of CUDA."""
    for part in _SHARED:
        both = [f"nvidia-{part}-cu{major}" for major in CUDA]
        if machine.plugins and all(name in machine.versions for name in both):
            yield (
                f"{both[0]} and {both[1]} write the same files, and one is broken: "
                f"pip uninstall -y {' '.join(both)} && {install(machine)}"
            )


def _gpu(machine: Machine, gpu: Gpu) -> Iterator[str]:
    """Compares a card with the plugin, and its free memory with jax's share."""
    title = f"GPU {gpu.index} ({gpu.name})"
    for plugin in machine.plugins:
        major = next(major for major in CUDA if major in plugin)
        least, driver = CAPABILITIES[major], DRIVERS[major]
        # NVIDIA's compatibility packages let some older drivers do.
        started = any(device.platform == "gpu" for device in machine.devices)
        if 0 < _major(gpu.driver) < driver and not started:
            yield (
                f"{title} has driver {gpu.driver}, CUDA {major} needs {driver} or "
                f"newer: update it, or {install(machine)}, {_ELSE}"
            )
        if (0, 0) < gpu.capability < least:
            yield (
                f"{title} has compute capability {_dotted(gpu.capability)}, {plugin} "
                f"needs {_dotted(least)}: {install(machine)}, or take another with "
                "CUDA_VISIBLE_DEVICES"
            )
    share = _share(machine)
    free = 1 - gpu.used_bytes / max(1, gpu.memory_bytes)
    if share > free:
        yield (
            f"{title}: processes hold {_gib(gpu.used_bytes)} of "
            f"{_gib(gpu.memory_bytes)} and jax takes {share:.0%}: end them (nvidia-smi "
            "lists them), take another GPU with CUDA_VISIBLE_DEVICES, or set "
            f"{_FRACTION}={max(0.0, free - 0.05):.2f}"
        )


def _devices(machine: Machine) -> Iterator[str]:
    """Compares what jax has started with what is there."""
    if machine.error:
        yield f"jax has no devices: {short(machine.error)}"
    on_cpu = any(device.platform == "cpu" for device in machine.devices)
    if machine.nvidia and on_cpu and not _named(machine):
        what = "did not start" if machine.plugins else "is not installed"
        yield (
            "an NVIDIA GPU is there, but jax computes on the CPU: its CUDA plugin "
            f"{what}: {install(machine)}"
        )


def _visible(machine: Machine) -> list[Gpu]:
    """Returns the GPUs that CUDA_VISIBLE_DEVICES leaves, where it names numbers."""
    named = machine.environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if not all(name.strip().isdecimal() for name in named):
        return list(machine.gpus)
    return [gpu for gpu in machine.gpus if gpu.index in map(int, named)]


def _share(machine: Machine) -> float:
    """Returns the share of a GPU's memory that jax takes at its start."""
    if machine.environment.get(_PREALLOCATE, "").lower() in ("false", "0"):
        return 0.0
    try:
        return float(machine.environment.get(_FRACTION, ""))
    except ValueError:
        return 0.75  # XLA's default


def _named(machine: Machine) -> list[str]:
    """Returns the platforms of JAX_PLATFORMS, in order."""
    return list(filter(None, machine.environment.get("JAX_PLATFORMS", "").split(",")))


def _number(version: str) -> tuple[int, ...]:
    """Returns the numbers that a version begins with, without zeros at the end."""
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in found[0].split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _major(version: str) -> int:
    return next(iter(_number(version)), 0)


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def _gib(nbytes: float) -> str:
    return f"{nbytes / MIB / 1024:.1f} GiB"

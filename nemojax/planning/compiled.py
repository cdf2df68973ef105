"""Compiles the real train step for hardware that is not here, and reads the result.

The CUDA plugin compiles without a GPU when told what one is (`--extra aot`), and libtpu
for a TPU topology. Bytes per device and collectives are the compiler's; kernels are
partly others than on the hardware, where it can time them.
"""

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from nemojax.data.batching.batches import Batch
from nemojax.errors import UserError
from nemojax.models import forward, partition
from nemojax.parallel.layout import Layout
from nemojax.planning import hlo
from nemojax.planning.alignment import cast
from nemojax.planning.hardware import Hardware
from nemojax.planning.scenario import Scenario
from nemojax.training import objectives, placement, programs, reference
from nemojax.training.optimizer import ADAMW
from nemojax.training.programs import ByLayout

# Chips -> shape of a TPU v5p slice.
_V5P = {
    8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 96: "4x4x6", 128: "4x4x8",
    256: "4x8x8", 512: "8x8x8", 768: "8x8x12", 1024: "8x8x16", 1536: "8x12x16",
    2048: "8x16x16", 3072: "12x16x16", 4096: "16x16x16", 6144: "16x16x24",
}  # fmt: skip
_V6E = {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_TPUS = {"tpu_v5p": ("v5p", _V5P), "tpu_v6e": ("v6e", _V6E)}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Facts of a step that the compiler reports.

    Attributes:
      seconds: seconds that tracing and compiling took.
      arguments_bytes: bytes of the state and the batch, per device.
      temporary_bytes: bytes of temporaries at the peak, per device.
      collectives: kind -> (instructions, bytes of their results), each instruction
        counted once however often a loop runs it.
      in_loops: kind -> instructions inside of loops.
      pipeline_problems: faults that a pipelined step should not have.
    """

    seconds: float
    arguments_bytes: int
    temporary_bytes: int
    collectives: dict[str, tuple[int, int]]
    in_loops: dict[str, int]
    pipeline_problems: tuple[str, ...]

    @property
    def per_device_bytes(self) -> int:
        """State, batch and temporaries; the state is updated in place."""
        return self.arguments_bytes + self.temporary_bytes


def compile_step(scenario: Scenario, devices: list[Any] | None = None) -> Compiled:
    """Compiles a train step of `scenario` for its own hardware, or for `devices`.

    Raises:
      UserError: no compiler for that hardware is installed, or there is no such
        topology.
    """
    chosen = (
        topology(scenario.hardware, scenario.devices) if devices is None else (devices)
    )
    mesh = scenario.spec.mesh(chosen)
    found = measured(
        lambda: lower(scenario, mesh), functools.partial(_problems, scenario)
    )
    return _with_reference(scenario, mesh, found)


def measured(
    lower: Callable[[], Any],
    problems: Callable[[hlo.Program], Iterable[str]] = lambda program: (),
) -> Compiled:
    """Compiles what `lower` gives (a `jax.stages.Lowered`), and reads the result.

    Raises:
      UserError: the compiler finds that it does not fit.
    """
    start = time.monotonic()
    try:
        compiled = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"the compiler finds that it does not fit: {reason}") from error
    seconds = time.monotonic() - start
    program = hlo.Program(compiled.as_text())
    memory = compiled.memory_analysis()
    found: dict[str, tuple[int, int]] = {}
    for one in program.collectives():
        count, size = found.get(one.opcode, (0, 0))
        found[one.opcode] = (count + 1, size + one.nbytes)
    in_loops = collections.Counter(
        one.opcode for one in program.collectives(in_loops=True)
    )
    return Compiled(
        seconds,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        found,
        dict(in_loops),
        tuple(problems(program)),
    )


def lower(scenario: Scenario, mesh: Mesh) -> jax.stages.Lowered:
    """Lowers the train step of a scenario for a mesh, as training makes it."""
    config, alignment = scenario.config, scenario.alignment
    layout, passes = scenario.on(mesh)
    if alignment is None:
        shape = (scenario.global_batch, scenario.length)
        integers = np.zeros(shape, np.int32)
        batch = Batch(integers, integers.astype(np.float32), None, integers)
        step = programs.train_step(
            ByLayout(objectives.language_model_objective, config), ADAMW, layout
        )
        params = partition.pack(config, forward.shapes(config), layout)
        return programs.lower(
            step, ADAMW, params, programs.in_passes(batch, passes), layout
        )
    step = programs.train_step(
        alignment.objective(config), ADAMW, layout, alignment.adapters
    )
    model = partition.pack(config, alignment.shapes(config), layout)
    return programs.lower(
        step, ADAMW, alignment.trained(config, model),
        _batch(scenario, layout, passes), layout, model if alignment.rank else None,
    )  # fmt: skip


def _batch(scenario: Scenario, layout: Layout, passes: int) -> Any:
    """Returns a batch of a stage of alignment, in passes."""
    assert scenario.alignment is not None
    rows = scenario.global_batch // passes
    one = scenario.alignment.batch(rows, scenario.length, layout)
    return programs.as_passes([one] * passes)


def _with_reference(scenario: Scenario, mesh: Mesh, found: Compiled) -> Compiled:
    """Adds the reference policy's parameters, and its pass if that needs more."""
    alignment, (layout, passes) = scenario.alignment, scenario.on(mesh)
    if alignment is None or not alignment.in_step:
        return found
    config = scenario.config
    shapes = cast(alignment.shapes(config), config.compute_dtype)
    params = programs.on_mesh(partition.pack(config, shapes, layout), layout)
    batch = _batch(scenario, layout, passes)
    batch = programs.placed(batch, placement.batch_shardings(batch, layout))
    program = reference.program(config, layout)
    one = measured(lambda: program.lower(params, batch))
    # Adapters are attached to the same parameters that are the reference.
    copy = 0 if alignment.rank else one.arguments_bytes
    return dataclasses.replace(
        found,
        seconds=found.seconds + one.seconds,
        arguments_bytes=found.arguments_bytes + copy,
        temporary_bytes=max(found.temporary_bytes, one.temporary_bytes),
    )


def _problems(scenario: Scenario, program: hlo.Program):
    """Lists what would make the loop over ticks slow."""
    exchanges = [
        one for one in program.collectives() if one.opcode == "collective-permute"
    ]
    # 1F1B's two directions stand in the loop of both passes and in that of one alone.
    expected = {"gpipe": 2, "1f1b": 4}[scenario.spec.pipeline]
    expected += scenario.replays  # a forward pass by itself
    if (
        scenario.spec.pipe * scenario.spec.virtual_stages > 1
        and len(exchanges) != expected
    ):
        yield f"{len(exchanges)} collective-permutes instead of {expected}"
    if scenario.layers_per_chunk == scenario.config.num_layers:
        return
    chunks = scenario.spec.virtual_stages * scenario.layers_per_chunk
    matrix = scenario.config.d_model * scenario.config.d_ff // scenario.spec.tensor
    sums = 4 if scenario.spec.accumulate == "float32" else 2
    for one in program.large_loop_results(chunks * matrix * sums):
        yield f"a loop computes {one.nbytes / 2**30:.1f} GiB anew: {one.text[:120]}"


def topology(hardware: Hardware, count: int) -> list[Any]:
    """Returns descriptions of `count` absent devices.

    Raises:
      UserError: no compiler is installed, or there is no such topology.
    """
    try:
        if hardware.platform == "cuda":
            return _gpus(hardware, count)
        return _tpus(hardware, count)
    except (RuntimeError, jax.errors.JaxRuntimeError) as error:
        raise UserError(
            f"cannot compile for {hardware.title}: {error}; install the extra 'aot'"
        ) from error


def _gpus(hardware: Hardware, count: int) -> list[Any]:
    per_node = min(count, hardware.fast_domain)
    if count % per_node:
        raise UserError(f"{count} devices are no whole number of nodes of {per_node}")
    return topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        target_config=_target(hardware),
        topology=f"1x{count // per_node}x{per_node}",
    ).devices


def _tpus(hardware: Hardware, count: int) -> list[Any]:
    prefix, shapes = _TPUS[hardware.name]
    if count not in shapes:
        raise UserError(
            f"no known slice of {count} {hardware.title}; there are "
            f"{', '.join(map(str, shapes))}"
        )
    name = f"{prefix}:{shapes[count]}"
    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices


def _target(hardware: Hardware) -> str:
    """Returns the device's facts in the text form that XLA reads."""
    major, minor = hardware.compute_capability
    feature = " feature_extension: ACCELERATED_FEATURES" if major == 9 else ""
    shared = 228 if major == 9 else 164
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: {48 * 1024}
  shared_memory_per_core: {shared * 1024}
  shared_memory_per_block_optin: {(shared - 1) * 1024}
  threads_per_core_limit: 2048
  core_count: {hardware.cores}
  fpus_per_core: {128 if major == 9 else 64}
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: {int(hardware.memory_bandwidth)}
  l2_cache_size: {(50 if major == 9 else 40) * 2**20}
  clock_rate_ghz: {hardware.clock_mhz / 1000}
  device_memory_size: {int(hardware.memory_bytes)}
  cuda_compute_capability {{ major: {major} minor: {minor}{feature} }}
  device_address_bits: 64
  pcie_bandwidth: {32 * 2**30}
  ecc_enabled: true
  device_vendor: "NVIDIA Corporation"
  name: "{hardware.title}"
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
  device_interconnect_info {{ active_links: {18 if major == 9 else 12} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{hardware.title}"
"""

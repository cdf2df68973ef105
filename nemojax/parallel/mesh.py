"""The device mesh: three named axes that every forward function is written for."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nemojax.errors import UserError
from nemojax.parallel import distributed

AXES = ("data", "pipe", "tensor")


def make_mesh(
    data: int = 1,
    pipe: int = 1,
    tensor: int = 1,
    *,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """Makes a mesh with the axes `data, pipe, tensor` (slowest network first).

    Axes of size 1 are kept, so that one device runs the same program as a cluster.

    Args:
      data: number of model replicas, each with its own part of the batch.
      pipe: number of pipeline stages.
      tensor: number of devices that share each matrix.
      devices: the devices to use; default: those of all processes, so that `tensor`
        stays inside of a host (`distributed.by_network`). The first
        `data * pipe * tensor` are taken.

    Raises:
      UserError: an axis size below 1, or fewer devices than the axes ask for.
    """
    sizes = (data, pipe, tensor)
    if min(sizes) < 1:
        raise UserError(f"mesh axis sizes must be at least 1, got {sizes}")
    if devices is None:
        devices = distributed.by_network(jax.devices(), tensor)
    available = list(devices)
    wanted = data * pipe * tensor
    if wanted > len(available):
        raise UserError(
            f"mesh {dict(zip(AXES, sizes, strict=True))} needs {wanted} devices, "
            f"{len(available)} are present: {wanted - len(available)} are missing"
        )
    return jax.make_mesh(
        sizes,
        AXES,
        axis_types=(AxisType.Auto,) * len(AXES),
        devices=available[:wanted],
    )


def in_turn(mesh: Mesh, result: Any) -> Any:
    """Waits for a program's result where a CPU stands for several devices.

    There a collective keeps a thread while it waits for the other devices, of a pool
    that all share: independent programs under way at once can keep all threads, and
    the process is aborted. Elsewhere nothing is waited for.

    Args:
      mesh: devices that the program runs on.
      result: what it returned.

    Returns:
      The result.
    """
    if mesh.size > 1 and mesh.devices.flat[0].platform == "cpu":
        jax.block_until_ready(result)
    return result


def sharding(mesh: Mesh, *axes: str | tuple[str, ...] | None) -> NamedSharding:
    """Makes the sharding of an array: `axes[i]` names the axes that split dim i."""
    return NamedSharding(mesh, PartitionSpec(*axes))

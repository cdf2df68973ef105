"""Start of jax on many hosts, found in the environment or given by flags.

One process a host (or a GPU). SLURM, Open MPI and Cloud TPUs are recognised by jax
itself; Kubernetes by the three variables that `experiments/launch/jobset.yaml` sets.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from nemojax.errors import UserError

# A process that has not been heard of for so long is dead, and so is the run.
HEARTBEAT_SECONDS = 30
_VARIABLES = ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Place of this process in a cluster.

    Attributes:
      kind: "flags", "environment", "slurm", "open mpi", "cloud tpu", or "none" for a
        process of its own.
      coordinator_address: host:port of process 0; None: jax finds it.
      num_processes: number of processes of the run; None: jax finds it.
      process_id: number of this process; None: jax finds it.
    """

    kind: str = "none"
    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def detect(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Cluster:
    """Finds out which cluster this process is part of.

    Args:
      coordinator_address: HOST:PORT of process 0; goes before the environment.
      num_processes: number of processes; goes with the address.
      process_id: number of this process; goes with the address.
      environment: variables; by default those of this process.

    Raises:
      UserError: some of the three are missing, or an environment variable is no
        number.
    """
    given = (coordinator_address, num_processes, process_id)
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise UserError(
                "coordinator_address, num_processes and process_id go together"
            )
        return Cluster("flags", *given)
    found = os.environ if environment is None else environment
    present = [name for name in _VARIABLES if name in found]
    if present:
        missing = sorted(set(_VARIABLES) - set(present))
        if missing:
            raise UserError(f"{present[0]} is set, but not {', '.join(missing)}")
        address, count, number = (found[name] for name in _VARIABLES)
        if not (count.isdecimal() and number.isdecimal()):
            raise UserError(
                f"NUM_PROCESSES={count!r} and PROCESS_ID={number!r} must be numbers"
            )
        return Cluster("environment", address, int(count), int(number))
    if int(found.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in found:
        return Cluster("slurm")
    if int(found.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return Cluster("open mpi")
    if "," in found.get("TPU_WORKER_HOSTNAMES", "") or "MEGASCALE_NUM_SLICES" in found:
        return Cluster("cloud tpu")
    return Cluster()


def initialize(cluster: Cluster) -> None:
    """Joins the processes of a run; does nothing for a process of its own.

    Call it before jax looks for its devices.
    """
    if cluster.kind == "none" or cluster.num_processes == 1:
        return
    jax.distributed.initialize(
        cluster.coordinator_address,
        cluster.num_processes,
        cluster.process_id,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )


def by_network(devices: Sequence[Any], tensor: int) -> list[Any]:
    """Returns devices in the order in which a mesh of `data, pipe, tensor` takes them.

    `tensor` is the innermost axis and stays inside of a host or a slice wherever it
    fits there; `data` is the outermost and goes over the slowest network.

    Args:
      devices: devices of all processes.
      tensor: size of that axis.

    Raises:
      UserError: `tensor` would be cut by the end of a host, although one holds several
        of its groups.
    """

    def place(device: Any) -> tuple[int, int, int]:
        return getattr(device, "slice_index", 0), device.process_index, device.id

    ordered = sorted(devices, key=place)
    hosts = {device.process_index for device in ordered}
    per_host = len(ordered) // len(hosts)
    if len(hosts) > 1 and per_host > tensor and per_host % tensor:
        raise UserError(
            f"tensor={tensor} does not divide the {per_host} devices of a host, and "
            "some groups would lie on two hosts"
        )
    return ordered

"""Which cluster a process is part of, and what is said if that is not clear."""

import types

import pytest

from nemojax.parallel import distributed
from nemojax.parallel.distributed import Cluster


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Cluster()),
        (
            {"COORDINATOR_ADDRESS": "a:1", "NUM_PROCESSES": "4", "PROCESS_ID": "3"},
            Cluster("environment", "a:1", 4, 3),
        ),
        ({"SLURM_NTASKS": "16", "SLURM_PROCID": "2"}, Cluster("slurm")),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, Cluster()),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, Cluster("open mpi")),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, Cluster("cloud tpu")),
        ({"TPU_WORKER_HOSTNAMES": "a"}, Cluster()),
        ({"MEGASCALE_NUM_SLICES": "2"}, Cluster("cloud tpu")),
    ],
)
def test_a_cluster_is_recognised_by_its_variables(environment, expected):
    assert distributed.detect(environment=environment) == expected


def test_flags_go_first():
    environment = {"SLURM_NTASKS": "16", "SLURM_PROCID": "2"}
    found = distributed.detect("b:2", 2, 1, environment)
    assert found == Cluster("flags", "b:2", 2, 1)


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("a:1", None, 0), {}, "go together"),
        (
            (),
            {"PROCESS_ID": "0"},
            "PROCESS_ID is set, but not COORDINATOR_ADDRESS, NUM",
        ),
        (
            (),
            {"COORDINATOR_ADDRESS": "a:1", "NUM_PROCESSES": "x", "PROCESS_ID": "0"},
            "NUM_PROCESSES='x' and PROCESS_ID='0' must be numbers",
        ),
    ],
)
def test_half_a_cluster_is_refused(arguments, environment, message):
    with pytest.raises(ValueError, match=message):
        distributed.detect(*arguments, environment=environment)


def devices(slices, hosts, each):
    """Devices as jax lists them, in an order that is not that of the network."""
    found = [
        types.SimpleNamespace(slice_index=s, process_index=s * hosts + h, id=number)
        for number, (s, h) in enumerate(
            (s, h) for _ in range(each) for h in range(hosts) for s in range(slices)
        )
    ]
    return found[::-1]


def test_tensor_groups_lie_inside_of_a_host_and_replicas_on_slices():
    ordered = distributed.by_network(devices(2, 2, 8), 8)
    for start in range(0, 32, 8):
        assert len({d.process_index for d in ordered[start : start + 8]}) == 1
    assert [d.slice_index for d in ordered] == [0] * 16 + [1] * 16


def test_a_tensor_axis_that_cuts_hosts_is_refused():
    with pytest.raises(ValueError, match="tensor=3 does not divide the 8 devices of"):
        distributed.by_network(devices(1, 2, 8), 3)

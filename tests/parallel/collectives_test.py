"""Collectives do what NumPy does on the whole array, and nothing outside a mesh."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from nemojax.parallel import collectives
from nemojax.parallel import mesh as meshes

SHARDS = 4
X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)


def on_mesh(local, out_spec, x=X):
    """`local` on the four row blocks of an array."""
    run = jax.shard_map(
        local,
        mesh=meshes.make_mesh(tensor=SHARDS),
        in_specs=PartitionSpec("tensor"),
        out_specs=out_spec,
        check_vma=False,
    )
    return np.asarray(jax.jit(run)(x))


def test_all_gather_puts_the_shards_together():
    def local(block):
        return collectives.all_gather(block, "tensor", 0)

    np.testing.assert_array_equal(on_mesh(local, PartitionSpec()), X)


def test_reduce_scatter_gives_each_device_its_slice_of_the_sum():
    def local(block):
        return collectives.reduce_scatter(block, "tensor", 1)

    total = X.reshape(SHARDS, 2, 4).sum(axis=0)
    scattered = on_mesh(local, PartitionSpec(None, "tensor"))
    np.testing.assert_allclose(scattered, total, rtol=1e-6)


@pytest.mark.parametrize(
    ("collective", "reduce"),
    [(collectives.all_reduce, np.sum), (collectives.all_reduce_max, np.max)],
)
def test_all_reduce_gives_every_device_the_result(collective, reduce):
    def local(block):
        return collective(block, "tensor")

    blocks = X.reshape(SHARDS, 2, 4)
    expected = np.tile(reduce(blocks, axis=0), (SHARDS, 1))
    np.testing.assert_allclose(
        on_mesh(local, PartitionSpec("tensor")), expected, rtol=1e-6
    )


def test_axis_index_counts_the_devices_of_an_axis():
    def local(block):
        return block * 0 + collectives.axis_index("tensor")

    rows = on_mesh(local, PartitionSpec("tensor"))[:, 0]
    np.testing.assert_array_equal(rows, np.repeat(np.arange(SHARDS), 2))


def test_outside_of_a_mesh_an_axis_has_size_one():
    assert collectives.axis_size("tensor") == 1
    assert collectives.axis_index("tensor") == 0
    for collective in (collectives.all_gather, collectives.reduce_scatter):
        np.testing.assert_array_equal(collective(X, "tensor", 0), X)
    for collective in (collectives.all_reduce, collectives.all_reduce_max):
        np.testing.assert_array_equal(collective(X, "tensor"), X)

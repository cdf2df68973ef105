"""A mesh has three axes whatever its size, and asks for no more than there is."""

import jax
import numpy as np
import pytest

from nemojax.parallel import mesh as meshes


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 4), (2, 2, 2)])
def test_the_mesh_has_every_axis_in_order(sizes):
    data, pipe, tensor = sizes
    mesh = meshes.make_mesh(data, pipe, tensor)
    assert dict(mesh.shape) == {"data": data, "pipe": pipe, "tensor": tensor}
    assert mesh.axis_names == meshes.AXES


def test_the_tensor_axis_is_the_fastest():
    """Neighbouring devices, on the fastest network, share matrices."""
    devices = meshes.make_mesh(data=2, tensor=2).devices
    ids = [[device.id for device in row] for row in devices[:, 0]]
    assert ids == [[0, 1], [2, 3]]


def test_devices_can_be_given():
    last = jax.devices()[-2:]
    mesh = meshes.make_mesh(data=2, devices=last)
    assert list(mesh.devices.flat) == last


@pytest.mark.parametrize("axis", meshes.AXES)
def test_a_size_below_one_is_refused(axis):
    with pytest.raises(ValueError, match="at least 1"):
        meshes.make_mesh(**{axis: 0})


def test_more_devices_than_present_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"'data': 4.*needs 4 devices, 3 are present"):
        meshes.make_mesh(data=4, devices=jax.devices()[:3])


def test_sharding_splits_the_dims_named():
    mesh = meshes.make_mesh(data=2, tensor=2)
    rows = np.arange(8).reshape(4, 2)
    placed = jax.device_put(rows, meshes.sharding(mesh, "data"))
    shards = {shard.device.id: shard.data for shard in placed.addressable_shards}
    for device, start in [(0, 0), (1, 0), (2, 2), (3, 2)]:
        np.testing.assert_array_equal(shards[device], rows[start : start + 2])
    both = meshes.sharding(mesh, ("data", "tensor"), None)
    assert both.shard_shape((4, 2)) == (1, 2)

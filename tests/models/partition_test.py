"""The table of partition specs reaches the parameters that it is for."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from nemojax.models import forward, partition
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout


@pytest.fixture(scope="module")
def shapes(config):
    init = functools.partial(forward.init, config, num_attributes=5)
    return jax.eval_shape(init, jax.random.key(0))


def test_exactly_the_matrices_of_the_model_are_split(shapes):
    """One dim of each; what is left whole are norms and the reward head."""
    specs = partition.param_specs(shapes)
    whole = set()
    for (path, shape), spec in zip(
        jax.tree_util.tree_leaves_with_path(shapes),
        jax.tree.leaves(specs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec)),
        strict=True,
    ):
        names = tuple(entry.key for entry in path)
        assert len(spec) <= len(shape.shape)
        if "tensor" not in spec:
            whole.add("/".join(names[:2]) if names[0] == "layers" else names[0])
    assert whole == {
        "final_norm",
        "layers/attention_norm",
        "layers/mlp_norm",
        "reward_head",
    }


def test_a_device_holds_its_share_of_every_matrix(params):
    """tensor=2: half of the split parameters, all of the others."""
    mesh = meshes.make_mesh(tensor=2)
    placed = jax.device_put(params, partition.param_shardings(params, Layout(mesh)))
    specs = partition.param_specs(params)

    def check(leaf, original, spec):
        shard = leaf.addressable_shards[1]
        shares = 2 if "tensor" in spec else 1
        assert shard.data.size * shares == leaf.size
        np.testing.assert_array_equal(leaf, original)

    jax.tree.map(check, placed, params, specs)


def test_what_a_layout_splits_badly_is_named_with_what_would_do(config):
    partition.check(config, Layout(meshes.make_mesh(tensor=2)))
    layout = Layout(meshes.make_mesh(tensor=4, pipe=2), virtual_stages=2)
    with pytest.raises(ValueError) as error:
        partition.check(config, layout)
    assert str(error.value) == (
        "tensor=4 does not divide num_kv_heads=2; 1, 2 do; pipe=2 x virtual_stages=2 "
        "does not divide num_layers=2; 1, 2 do"
    )

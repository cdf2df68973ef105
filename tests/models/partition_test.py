"""The table of partition specs reaches the parameters that it is for."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from nemojax.models import forward, partition, trees
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout, LayoutSpec
from nemojax.planning import hlo


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


@pytest.mark.parametrize("sizes", [(1, 4, 2, 3), (2, 3, 1, 2), (1, 2, 2, 4)])
def test_packing_gives_stages_their_chunks_and_no_device_a_whole_leaf(config, sizes):
    """Also where the number of chunks and that of stages have a common divisor."""
    data, pipe, tensor, chunks = sizes
    deep = dataclasses.replace(config, num_layers=pipe * chunks)
    spec = LayoutSpec(data=data, pipe=pipe, tensor=tensor, virtual_stages=chunks)
    layout = spec.layout()
    params = jax.jit(functools.partial(forward.init, deep))(jax.random.key(0))
    plain = partition.param_shardings(params, layout)
    pack, unpack = (
        functools.partial(change, deep, layout=layout)
        for change in (partition.pack, partition.unpack)
    )
    packed = partition.param_shardings(jax.eval_shape(pack, params), layout)
    to = jax.jit(pack, in_shardings=(plain,), out_shardings=packed)
    back = jax.jit(unpack, in_shardings=(packed,), out_shardings=plain)
    found = to(params)
    for (path, ours), theirs in zip(
        trees.items(found), jax.tree.leaves(params), strict=True
    ):
        if path[0] == "layers":
            shape = chunks, pipe, 1, *theirs.shape[1:]
            np.testing.assert_array_equal(ours, np.reshape(theirs, shape))
    jax.tree.map(np.testing.assert_array_equal, back(found), params)
    stacked = jax.tree.map(lambda leaf: leaf.nbytes, params["layers"])
    largest = max(jax.tree.leaves(stacked))
    for program, tree in ((to, params), (back, found)):
        compiled = program.lower(tree).compile().as_text()
        computations = hlo.Program(compiled).computations.values()
        assert max(one.nbytes for found in computations for one in found) < largest

"""What the engine makes of a model's parameters."""

import dataclasses

import jax
import numpy as np
import pytest

from nemojax.inference.engine import paged
from nemojax.models import lora, partition, quantized
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from tests.models.conftest import TINY, random_params

LLAMA = dataclasses.replace(TINY, activation="swiglu", norm="rmsnorm")
MADE_OF = {
    ("attention", "query_key_value"): ("query", "key", "value"),
    ("mlp", "up_gate"): ("up", "gate"),
}


@pytest.mark.parametrize("donate", [False, True])
def test_each_device_has_its_columns_of_all_kernels_with_one_input(donate):
    """In one kernel, in the order in which the layers cut the product apart."""
    mesh = meshes.make_mesh(tensor=2)
    tree = quantized.quantize(random_params(LLAMA), "int8")
    tree = jax.device_put(tree, partition.param_shardings(tree, Layout(mesh)))
    stacked = {
        (module, name): [np.asarray(shard.data) for shard in leaf.addressable_shards]
        for module, leaves in tree["layers"].items()
        for name, leaf in leaves.items()
    }
    found = paged.by_layer(LLAMA, tree, mesh, donate=donate)["layers"]
    assert len(found) == LLAMA.num_layers
    for index, layer in enumerate(found):
        assert set(layer["attention"]) == {
            "query_key_value", "query_key_value_scale", "output", "output_scale",
        }  # fmt: skip
        for (module, joined), names in MADE_OF.items():
            for suffix in ("", "_scale"):
                shards = layer[module][joined + suffix].addressable_shards
                for device, shard in enumerate(shards):
                    parts = [stacked[module, n + suffix][device][index] for n in names]
                    np.testing.assert_array_equal(shard.data, np.concatenate(parts, -1))


def test_kernels_with_adapters_stay_apart():
    params = random_params(TINY)
    adapters = lora.init(
        lora.LoraConfig(rank=2, patterns=("*/key",)), params, jax.random.key(0)
    )
    tree = lora.attach(params, adapters, 1.0)
    kernels = paged.by_layer(TINY, tree, meshes.make_mesh())["layers"][0]["attention"]
    assert set(kernels) == set(tree["layers"]["attention"])

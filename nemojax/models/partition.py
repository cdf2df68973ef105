"""Where each parameter lives: the one table of partition specs."""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nemojax.models.config import ModelConfig

# By the last two names of a parameter's path. A layer's parameters carry a leading
# [num_layers] dim. Everything that is not named here is on every device.
_SPECS = {
    ("embedding", "table"): PartitionSpec("tensor"),
    ("lm_head", "kernel"): PartitionSpec("tensor"),
    ("attention", "query"): PartitionSpec(None, None, "tensor"),
    ("attention", "key"): PartitionSpec(None, None, "tensor"),
    ("attention", "value"): PartitionSpec(None, None, "tensor"),
    ("attention", "output"): PartitionSpec(None, "tensor"),
    ("mlp", "up"): PartitionSpec(None, None, "tensor"),
    ("mlp", "gate"): PartitionSpec(None, None, "tensor"),
    ("mlp", "down"): PartitionSpec(None, "tensor"),
}


def param_specs(params):
    """The tree of PartitionSpecs of a parameter tree (arrays or shapes)."""

    def spec(path, _):
        names = tuple(entry.key for entry in path)
        return _SPECS.get(names[-2:], PartitionSpec())

    return jax.tree_util.tree_map_with_path(spec, params)


def param_shardings(params, mesh: Mesh):
    """The tree of NamedShardings of a parameter tree on a mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), param_specs(params))


def check_divisible(config: ModelConfig, mesh: Mesh) -> None:
    """Raises ValueError, naming every size that the mesh's tensor axis splits badly."""
    tensor = mesh.shape["tensor"]
    sizes = ("vocab_size", "num_heads", "num_kv_heads", "d_ff")
    bad = [f"{n}={getattr(config, n)}" for n in sizes if getattr(config, n) % tensor]
    if bad:
        raise ValueError(f"tensor={tensor} does not divide {', '.join(bad)}")

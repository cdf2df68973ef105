"""Where each parameter lives: the one table of partition specs."""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nemojax.models.config import ModelConfig
from nemojax.models.layers import LORA_SUFFIXES

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
        module, name = ("", *(entry.key for entry in path))[-2:]
        return _SPECS.get((module, name)) or _adapter_spec(module, name)

    return jax.tree_util.tree_map_with_path(spec, params)


def _adapter_spec(module: str, name: str) -> PartitionSpec:
    """That of an attached adapter: split as the side of the kernel that it touches."""
    for suffix, place in zip(LORA_SUFFIXES, (1, 2), strict=True):
        if name.endswith(suffix):
            kernel = _SPECS.get((module, name.removesuffix(suffix)), PartitionSpec())
            axis = (*kernel, None, None, None)[place]
            return PartitionSpec(*(None,) * place, axis) if axis else PartitionSpec()
    return PartitionSpec()


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

"""Placement of every parameter: the one table of what the mesh splits.

Trees come in two shapes. The plain one stacks layers on axis 0, `[L, ...]`: that is
what `init` makes, what is saved, and what a mesh without a pipeline trains; stage p
holds the p-th part of the layers. `pack` makes the one that a pipeline trains:
`[V, P, L / (V P), ...]`, a C-order reshape, of which stage p holds `[:, p]`; the
vocabulary is padded to a multiple of `tensor`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from nemojax.errors import UserError
from nemojax.models import trees
from nemojax.models.config import ModelConfig
from nemojax.models.layers import LORA_SUFFIXES, SCALE_SUFFIX
from nemojax.parallel import collectives, weights
from nemojax.parallel.layout import Layout
from nemojax.parallel.mesh import AXES

# By the last two names of a parameter's path: the dim of one layer's parameter that
# `tensor` splits, and the one that ZeRO splits. What is not here is on every device.
_SPLITS = {
    ("embedding", "table"): (0, 1),
    ("lm_head", "kernel"): (0, 1),
    ("attention", "query"): (1, 0),
    ("attention", "key"): (1, 0),
    ("attention", "value"): (1, 0),
    ("attention", "output"): (0, 1),
    ("mlp", "up"): (1, 0),
    ("mlp", "gate"): (1, 0),
    ("mlp", "down"): (0, 1),
    # As the engine keeps those with the same input.
    ("attention", "query_key_value"): (1, 0),
    ("mlp", "up_gate"): (1, 0),
}
_VOCABULARIES = (
    ("embedding", "table"),
    ("lm_head", "kernel"),
    ("lm_head", "kernel" + SCALE_SUFFIX),
)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Place of one parameter on the mesh.

    Attributes:
      spec: PartitionSpec of the whole array.
      zero_dim: the dim that ZeRO splits.
      zero_axes: the mesh axes that it is split over; empty: it is not.
      stacked: whether a dim for the layers comes first.
    """

    spec: PartitionSpec
    zero_dim: int = 0
    zero_axes: tuple[str, ...] = ()
    stacked: bool = False


def scale_side(path: tuple[str, ...]) -> int | None:
    """Returns which dim of a layer's two-dim kernel its output channels are.

    None for parameters that have no scales: all that are no matrices of a layer or LM
    head.
    """
    if path[-2:] == ("lm_head", "kernel"):
        return 0
    return 1 if path[0] == "layers" and path[-2:] in _SPLITS else None


def placements(params: Any, layout: Layout | None = None) -> Any:
    """Returns the tree of Placements of a parameter tree of global sizes.

    A parameter whose width the replicas do not divide is not split by ZeRO.
    """
    layout = layout or Layout()

    return trees.map_items(lambda path, leaf: _place(path, leaf.shape, layout), params)


def _place(names: tuple[str, ...], shape: tuple[int, ...], layout: Layout) -> Placement:
    module, name = ("", *names)[-2:]
    stacked = names[0] == "layers"
    splits = _SPLITS.get((module, name), (None, None))
    for suffix, side in zip(LORA_SUFFIXES, (0, 1), strict=True):
        if name.endswith(suffix):  # split as the side of the kernel that it touches
            kernel, _ = _SPLITS.get((module, name.removesuffix(suffix)), (None, None))
            splits = (kernel if kernel == side else None, None)
    if name.endswith(SCALE_SUFFIX):  # as the side of the kernel that comes out
        kernel = name.removesuffix(SCALE_SUFFIX)
        split, _ = _SPLITS.get((module, kernel), (None, None))
        out = scale_side((*names[:-1], kernel))
        splits = (0 if out is not None and split == out else None, None)
    tensor, zero = splits
    # One layer's kernels have two dims, its norms and scales one; what is more are
    # layers.
    single = module.endswith("norm") or name.endswith(SCALE_SUFFIX)
    first = len(shape) - (1 if single else 2) if stacked else 0
    entries: list[Any] = [None] * len(shape)
    if first == 3:
        entries[1] = "pipe"
    elif first == 1 and layout.size("pipe") > 1 and shape[0] % layout.size("pipe") == 0:
        entries[0] = "pipe"
    # The vocabulary of a plain tree may not divide; `check` is about all else.
    if tensor is not None and shape[first + tensor] % layout.size("tensor") == 0:
        entries[first + tensor] = "tensor"
    axes = ("data",) if stacked else ("pipe", "data")
    shares = layout.size(*axes)
    if not layout.zero or zero is None or shape[first + zero] % shares or shares == 1:
        axes = ()
    else:
        entries[first + zero] = axes if len(axes) > 1 else axes[0]
    while entries and entries[-1] is None:
        entries.pop()
    return Placement(PartitionSpec(*entries), first + (zero or 0), axes, stacked)


def param_specs(params: Any, layout: Layout | None = None) -> Any:
    """Returns the tree of PartitionSpecs of a parameter tree."""
    return jax.tree.map(lambda placement: placement.spec, placements(params, layout))


def param_shardings(params: Any, layout: Layout) -> Any:
    """Returns the tree of NamedShardings of a parameter tree."""
    return jax.tree.map(
        lambda spec: NamedSharding(layout.mesh, spec), param_specs(params, layout)
    )


def pack(config: ModelConfig, params: Any, layout: Layout) -> Any:
    """Reshapes a plain tree (arrays or shapes) into the shape that `layout` trains.

    Raises:
      UserError: as `check`.
    """
    check(config, layout)
    return _reshaped(config, params, layout, packed=True)


def unpack(config: ModelConfig, params: Any, layout: Layout) -> Any:
    """Reshapes a packed tree into the plain one: the inverse of `pack`."""
    return _reshaped(config, params, layout, packed=False)


def _reshaped(config: ModelConfig, params: Any, layout: Layout, packed: bool) -> Any:
    pipe, virtual_stages = layout.size("pipe"), layout.virtual_stages
    stages = virtual_stages, pipe, config.num_layers // layout.chunks
    rows = padded_vocab(config, layout) if packed else config.vocab_size

    def reshape(names, leaf):
        if names[-2:] in _VOCABULARIES and rows != leaf.shape[0]:
            if not packed:
                return leaf[:rows]
            rest = ((0, 0),) * (leaf.ndim - 1)
            return jnp.pad(leaf, ((0, rows - leaf.shape[0]), *rest))
        if names[0] != "layers" or layout.chunks == 1:
            return leaf
        if packed:
            shape = *stages, *leaf.shape[1:]
        else:
            shape = config.num_layers, *leaf.shape[3:]
        if shapes or virtual_stages == 1 or pipe == 1:
            return leaf.reshape(shape)
        specs = [_place(names, one, layout).spec for one in (leaf.shape, shape)]
        return _exchanged(layout, packed, *specs, leaf)

    def reshape_all(params):
        return trees.map_items(reshape, params)

    shapes = isinstance(jax.tree.leaves(params)[0], jax.ShapeDtypeStruct)
    return jax.eval_shape(reshape_all, params) if shapes else reshape_all(params)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), inline=True)
def _exchanged(
    layout: Layout,
    packed: bool,
    old: PartitionSpec,
    new: PartitionSpec,
    leaf: jax.Array,
) -> jax.Array:
    """Reshapes a leaf of the layers where stages hold other layers afterwards.

    The compiler would gather the whole leaf on each device. Here each stage shows one
    of its chunks to the others at a time.
    """
    chunks, pipe = layout.virtual_stages, layout.size("pipe")

    def local(part):
        own = jax.lax.axis_index("pipe")
        if packed:
            number = jnp.arange(chunks) * pipe + own
            stage, place = number // chunks, number % chunks
            rest = part.shape[1:]
        else:
            number = own * chunks + jnp.arange(chunks)
            stage, place = number % pipe, number // pipe
            rest = part.shape[3:]
        part = part.reshape(chunks, -1, *rest)
        mask = (-1, *(1,) * (part.ndim - 1))

        def show(at, out):
            shown = jax.lax.all_gather(part[at], "pipe")
            return jnp.where((place == at).reshape(mask), shown[stage], out)

        out = jax.lax.fori_loop(0, chunks, show, part)
        return out.reshape(chunks, 1, -1, *rest) if packed else out.reshape(-1, *rest)

    return jax.shard_map(local, mesh=layout.mesh, in_specs=old, out_specs=new)(leaf)


def is_packed(config: ModelConfig, params: Any, layout: Layout) -> bool:
    """Returns whether a tree already has the shape that `layout` trains."""
    norm = jax.tree.leaves(params["layers"]["attention_norm"])[0]
    rows = params["embedding"]["table"].shape[0]
    return norm.ndim == (4 if layout.chunks > 1 else 2) and rows == padded_vocab(
        config, layout
    )


def is_plain(config: ModelConfig, layout: Layout) -> bool:
    """Returns whether `layout` trains trees in the plain shape."""
    return layout.chunks == 1 and padded_vocab(config, layout) == config.vocab_size


def padded_vocab(config: ModelConfig, layout: Layout) -> int:
    """Returns the rows of the embedding tables, a multiple of the tensor axis."""
    tensor = layout.size("tensor")
    return -(-config.vocab_size // tensor) * tensor


def local_params(
    config: ModelConfig, params: Any, plan: Any, layout: Layout
) -> tuple[Any, Any]:
    """Returns the parameters of the forward functions, inside a `shard_map`.

    Args:
      config: configuration with the compute dtype.
      params: this device's part of a tree.
      plan: `placements` of the whole tree.
      layout: layout of the step.

    Returns:
      The tree, with whole weights where ZeRO gathers once a step; its branch "layers"
      is `[V, L / (V P), ...]` and has no gradient. And a tree like that branch, which
      takes the gradients up: see `parallel.weights`.
    """
    dtype = jnp.dtype(config.compute_dtype)

    def whole(leaf, place):
        if not place.zero_axes or (place.stacked and layout.zero == 3):
            return leaf
        return weights.gather(leaf, _dim(place, layout), place.zero_axes, dtype)

    def sums(leaf, place):
        gathered = () if layout.zero == 3 else place.zero_axes
        to = dtype if layout.accumulate == "compute" else jnp.dtype(jnp.float32)
        return weights.accumulator(leaf, _dim(place, layout), gathered, to)

    own = jax.tree.map(functools.partial(_own, layout), params, plan)
    given = jax.tree.map(whole, own, plan)
    given["layers"] = jax.lax.stop_gradient(given["layers"])
    return given, jax.tree.map(sums, own["layers"], plan["layers"])


def _own(layout: Layout, leaf: jax.Array, place: Placement) -> jax.Array:
    """Marks a leaf as free to differ; a layer's becomes `[V, L / (V P), ...]`."""
    present = {axis for entry in place.spec for axis in axes_of(entry)}
    leaf = collectives.vary(leaf, tuple(axis for axis in AXES if axis not in present))
    if not place.stacked:
        return leaf
    return leaf.squeeze(1) if layout.chunks > 1 else leaf[None]


def _dim(place: Placement, layout: Layout) -> int:
    """Returns the dim that ZeRO splits of a leaf as `_own` gives it."""
    if not place.stacked:
        return place.zero_dim
    return place.zero_dim + (-1 if layout.chunks > 1 else 1)


def layer_params(
    config: ModelConfig,
    layers: Any,
    sums: Any,
    plan: Any,
    layout: Layout,
    place: tuple[jax.Array | int, jax.Array | int],
) -> Any:
    """Returns the parameters of one layer out of `local_params`' layers.

    Args:
      config: configuration with the compute dtype.
      layers: the branch "layers".
      sums: this layer's part of what takes the gradients up.
      plan: `placements` of the branch.
      layout: layout of the step.
      place: chunk and layer of the chunk, int32 scalars.
    """
    dtype = jnp.dtype(config.compute_dtype)

    def one(placement, leaf, into):
        rest = leaf.shape[2:]
        start = (*place, *(0,) * len(rest))
        leaf = jax.lax.dynamic_slice(leaf, start, (1, 1, *rest)).reshape(rest)
        leaf = weights.attach(leaf, into)
        if layout.zero == 3 and placement.zero_axes:
            dim = _dim(placement, layout) - 2
            leaf = weights.gather(leaf, dim, placement.zero_axes, dtype)
        return leaf

    return jax.tree.map(one, plan, layers, sums)


def axes_of(entry: Any) -> tuple[str, ...]:
    """Returns the mesh axes of one entry of a PartitionSpec."""
    return entry if isinstance(entry, tuple) else (entry,) if entry else ()


def check(config: ModelConfig, layout: Layout) -> None:
    """Raises UserError, naming every size that the layout splits badly."""
    problems = []
    tensor = layout.size("tensor")
    for name in ("num_heads", "num_kv_heads", "d_ff"):
        size = getattr(config, name)
        if size % tensor:
            problems.append(
                f"tensor={tensor} does not divide {name}={size}; {_divisors(size)} do"
            )
    layers = config.num_layers
    if layers % layout.chunks:
        problems.append(
            f"pipe={layout.size('pipe')} x virtual_stages={layout.virtual_stages} does "
            f"not divide num_layers={layers}; {_divisors(layers)} do"
        )
    if problems:
        raise UserError("; ".join(problems))


def _divisors(size: int) -> str:
    found = [str(n) for n in range(1, size + 1) if size % n == 0]
    return ", ".join(found if len(found) < 12 else [*found[:10], "...", found[-1]])

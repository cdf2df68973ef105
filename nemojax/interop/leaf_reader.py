"""Makes leaves of our tree from a checkpoint, layer by layer."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from nemojax.models import partition
from nemojax.parallel.layout import Layout

Index = tuple[slice, ...]


def leaf(
    shape: Sequence[int],
    read: Callable[[Any], np.ndarray],
    sharding: NamedSharding | None,
) -> jax.Array | np.ndarray:
    """Makes a leaf on a mesh, each device's part read by itself, or on the host.

    Args:
      shape: shape of the leaf.
      read: function that gives the part of an index.
      sharding: sharding of the leaf; None: whole on the host.
    """
    if sharding is None:
        return read((slice(None),) * len(shape))
    return jax.make_array_from_callback(tuple(shape), sharding, read)


def stacked(
    shape: Sequence[int],
    dtype: np.dtype,
    index: Index,
    read_layer: Callable[[int, Index], np.ndarray],
) -> np.ndarray:
    """Reads a part of a leaf that stacks its layers, one layer at a time.

    Args:
      shape: shape of the leaf, [layers, ...].
      dtype: dtype of the leaf.
      index: index of the part.
      read_layer: function that gives the part of a layer.
    """
    layers = range(shape[0])[index[0]]
    sizes = (range(size)[part] for part, size in zip(index, shape, strict=True))
    out = np.empty([len(chosen) for chosen in sizes], dtype)
    for place, layer in enumerate(layers):
        out[place] = read_layer(layer, index[1:])
    return out


def shardings(tree: Any, layout: Layout | None) -> Any:
    """Returns where the leaves of a tree (arrays or shapes) go; None each: the host."""
    if layout is None:
        return jax.tree.map(lambda leaf: None, tree)
    return partition.param_shardings(tree, layout)


def everywhere(layout: Layout | None) -> NamedSharding | None:
    """Returns the sharding of an array that every device holds; None: the host."""
    return None if layout is None else NamedSharding(layout.mesh, PartitionSpec())

"""Leaves of our tree as they come out of a checkpoint, layer by layer."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Index = tuple[slice, ...]


def leaf(
    shape: Sequence[int],
    read: Callable[[Any], np.ndarray],
    mesh: Mesh | None,
    spec: PartitionSpec,
) -> jax.Array | np.ndarray:
    """A leaf on a mesh, each device's part read by itself, or whole on the host.

    Args:
      shape: of the leaf.
      read: gives the part of an index.
      mesh: None: the host.
      spec: how the mesh splits it.
    """
    if mesh is None:
        return read((slice(None),) * len(shape))
    return jax.make_array_from_callback(tuple(shape), NamedSharding(mesh, spec), read)


def stacked(
    shape: Sequence[int],
    dtype: np.dtype,
    index: Index,
    read_layer: Callable[[int, Index], np.ndarray],
) -> np.ndarray:
    """The part of a leaf that stacks its layers; one layer is read at a time.

    Args:
      shape: of the leaf, [layers, ...].
      dtype: of the leaf.
      index: of the part.
      read_layer: gives the part of a layer.
    """
    layers = range(shape[0])[index[0]]
    sizes = (range(size)[part] for part, size in zip(index, shape, strict=True))
    out = np.empty([len(chosen) for chosen in sizes], dtype)
    for place, layer in enumerate(layers):
        out[place] = read_layer(layer, index[1:])
    return out

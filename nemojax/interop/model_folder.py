"""A model as a folder: `model.json`, the parameters, and files beside them.

    model.json     the ModelConfig
    params/        Orbax; any mesh restores it
    tokenizer.model, ...

Leaves are written and read one at a time, so that a model that fits no memory can
still be converted. The folder appears when all of it is written.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from orbax.checkpoint.experimental import v1 as ocp

from nemojax.interop import names
from nemojax.io import folders
from nemojax.models import partition
from nemojax.models.config import ModelConfig, RopeScaling
from nemojax.parallel import mesh as meshes
from nemojax.parallel import processes
from nemojax.parallel.layout import Layout

MODEL = "model.json"
PARAMS = "params"
# Orbax writes and reads a leaf in pieces of about this size.
CHUNK_BYTES = 64 * 2**20

Path = tuple[str, ...]
PathLike = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class StoredLeaf:
    """A leaf that is still on the disk: `load` reads it."""

    shape: tuple[int, ...]
    dtype: Any
    load: Callable[[], Any]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def write(
    directory: PathLike,
    config: ModelConfig,
    leaves: Iterable[tuple[Path, jax.Array | np.ndarray]],
    files: Mapping[str, pathlib.Path] = MappingProxyType({}),
) -> None:
    """Writes a model; of several processes each writes what it holds.

    Args:
      directory: must not exist, or be empty.
      config: of the model.
      leaves: path in the parameter tree and value; taken one at a time.
      files: are copied into the folder, by name: those of a tokenizer for one.

    Raises:
      ValueError: the directory is in use.
    """
    saving = ocp.options.ArrayOptions.Saving
    options = ocp.options.ArrayOptions(
        saving=saving(
            storage_options=saving.StorageOptions(chunk_byte_size=CHUNK_BYTES),
            # Encoded pieces are held in memory until their file is full.
            ocdbt_target_data_file_size=4 * CHUNK_BYTES,
        )
    )
    # Saving waits until all is written, so that nothing can change meanwhile.
    memory = ocp.options.MemoryOptions(deepcopy_host_arrays=False)
    with _appearing(directory) as partial:
        target = str(partial / PARAMS)
        with ocp.Context(array_options=options, memory_options=memory):
            for path, leaf in leaves:
                if isinstance(leaf, jax.Array) and len(leaf.devices()) == 1:
                    leaf = np.asarray(leaf)  # on a CPU no copy; Orbax would make one
                ocp.partial.save(target, _nested(path, leaf))
                del leaf
            ocp.partial.finalize(target)
        if processes.is_first():
            for name, file in files.items():
                shutil.copyfile(file, partial / name)
            fields = dataclasses.asdict(config)
            (partial / MODEL).write_text(json.dumps(fields, indent=2))


@contextlib.contextmanager
def _appearing(directory: PathLike) -> Iterator[pathlib.Path]:
    """As `folders.appearing`, which the first process does; all write."""
    with contextlib.ExitStack() as stack:
        folder = folders.appearing(directory)
        yield pathlib.Path(processes.of_first(lambda: str(stack.enter_context(folder))))
        processes.barrier("a model is written")
    processes.barrier("a model is there")


def read_config(directory: PathLike) -> ModelConfig:
    """The config of a model folder.

    Raises:
      ValueError: it is no model folder.
    """
    path = pathlib.Path(directory) / MODEL
    try:
        fields = json.loads(path.read_text())
        if fields.get("rope_scaling"):
            fields["rope_scaling"] = RopeScaling(**fields["rope_scaling"])
        return ModelConfig(**fields)
    except (OSError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: no model: {error}") from error


def stored(directory: PathLike, mesh: Mesh | None = None) -> Any:
    """The parameter tree of a model folder, with `StoredLeaf` leaves.

    Args:
      directory: of the model.
      mesh: where the leaves go when they are read; default: one device.
    """
    mesh = mesh or meshes.make_mesh()
    params = str(pathlib.Path(directory).absolute() / PARAMS)
    found = ocp.metadata(params).metadata
    shardings = partition.param_shardings(found, Layout(mesh))

    def leaf(path, value, sharding):
        shape = jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)
        here = tuple(entry.key for entry in path)
        return StoredLeaf(
            tuple(value.shape),
            value.dtype,
            functools.partial(_load_leaf, params, found, here, shape),
        )

    return jax.tree_util.tree_map_with_path(leaf, found, shardings)


def read(directory: PathLike, mesh: Mesh | None = None) -> tuple[ModelConfig, Any]:
    """The config and the parameters of a model folder, on a mesh."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves(directory, mesh):
        names.put(tree, path, leaf)
    return read_config(directory), tree


def leaves(
    directory: PathLike, mesh: Mesh | None = None
) -> Iterator[tuple[Path, jax.Array]]:
    """Paths and leaves, read one at a time, the largest first.

    Args: as `stored`.
    """
    found = jax.tree_util.tree_leaves_with_path(
        stored(directory, mesh), is_leaf=lambda x: isinstance(x, StoredLeaf)
    )
    for path, leaf in sorted(found, key=lambda pair: pair[1].size, reverse=True):
        yield tuple(entry.key for entry in path), leaf.load()


def _load_leaf(
    params: str, found: Any, path: Path, shape: jax.ShapeDtypeStruct
) -> jax.Array:
    def wanted(keys, _):
        here = tuple(entry.key for entry in keys) == path
        return shape if here else ocp.PLACEHOLDER

    tree = ocp.load(params, jax.tree_util.tree_map_with_path(wanted, found))
    return names.get(tree, path)


def _nested(path: Path, leaf: Any) -> Any:
    for name in reversed(path):
        leaf = {name: leaf}
    return leaf

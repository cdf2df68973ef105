"""Model folders: `model.json`, the parameters, and files beside them.

    model.json        the ModelConfig, and the SHA-256 of the tokenizer's files
    params/           Orbax; any mesh restores it
    tokenizer.model, ...
    manifest.*.json   checksums of all these files, which are verified before it is read

Leaves are written and read one at a time, so that a model that fits no memory can
still be converted. The folder appears when all of it is written.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from orbax.checkpoint.experimental import v1 as ocp

from nemojax.errors import UserError
from nemojax.io import folders, manifest
from nemojax.models import partition, trees
from nemojax.models.config import ModelConfig, RopeScaling
from nemojax.models.trees import Path
from nemojax.parallel import processes
from nemojax.parallel.layout import Layout

MODEL = "model.json"
PARAMS = "params"
_TOKENIZER = "tokenizer_sha256"  # name of a file -> its hash
_TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json")
# Orbax writes and reads a leaf in pieces of about this size.
CHUNK_BYTES = 64 * 2**20

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
    files: Mapping[str, pathlib.Path | bytes] = MappingProxyType({}),
) -> None:
    """Writes leaves as a model folder; each process writes the shards that it holds.

    Args:
      directory: must not exist, or be empty.
      config: sizes of the model.
      leaves: path in the parameter tree and value; taken one at a time.
      files: name in the folder -> a file to copy, or its content; those of a
        tokenizer for one (`tokenizer_files.find`).

    Raises:
      UserError: the directory is in use.
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
                ocp.partial.save(target, trees.build([(path, leaf)]))
                del leaf
            ocp.partial.finalize(target)
        if processes.is_process_0():
            fields, hashes = dataclasses.asdict(config), {}
            for name, file in files.items():
                content = file if isinstance(file, bytes) else file.read_bytes()
                (partial / name).parent.mkdir(exist_ok=True)
                (partial / name).write_bytes(content)
                if name in _TOKENIZER_FILES:
                    hashes[name] = hashlib.sha256(content).hexdigest()
            fields |= {_TOKENIZER: hashes} if hashes else {}
            (partial / MODEL).write_text(json.dumps(fields, indent=2))
        processes.barrier("a model's files are written")
        manifest.write(partial, jax.process_index(), jax.process_count())


@contextlib.contextmanager
def _appearing(directory: PathLike) -> Iterator[pathlib.Path]:
    """Gives all processes the folder that `folders.appearing` makes in the first."""
    with contextlib.ExitStack() as stack:
        folder = folders.appearing(directory)
        yield pathlib.Path(
            processes.broadcast_from_process_0(lambda: str(stack.enter_context(folder)))
        )
        processes.barrier("a model is written")
    processes.barrier("a model is there")


def save(
    directory: PathLike,
    config: ModelConfig,
    params: Any,
    *,
    like: Any = None,
    files: Mapping[str, pathlib.Path | bytes] = MappingProxyType({}),
    exist_ok: bool = False,
) -> None:
    """Writes a parameter tree as a model folder.

    Several processes have to call it together; each writes the shards that it holds.

    Args:
      directory: must not exist, or be empty.
      config: sizes of the model.
      params: the parameter tree, on any mesh or on the host.
      like: a tree of the dtypes that parameters are written in, such as those of the
        model that training began with, `jax.tree.map(lambda leaf: leaf.dtype, it)`;
        a parameter that is not in it keeps its own. Default: all do.
      files: files as in `write`.
      exist_ok: whether a directory that is there already is left as it is: one that
        `save` wrote is whole.

    Raises:
      UserError: the directory is in use.
    """
    if exist_ok and processes.broadcast_from_process_0(pathlib.Path(directory).exists):
        return
    dtypes = dict(trees.items(like))
    cast = (
        (path, leaf.astype(dtypes.get(path, leaf.dtype), copy=False))
        for path, leaf in trees.items(params)
    )
    write(directory, config, cast, files)


def read_config(directory: PathLike) -> ModelConfig:
    """Reads the config of a model folder.

    Raises:
      UserError: it is no model folder.
    """
    path = pathlib.Path(directory) / MODEL
    try:
        fields = json.loads(path.read_text())
        fields.pop(_TOKENIZER, None)
        if fields.get("rope_scaling"):
            fields["rope_scaling"] = RopeScaling(**fields["rope_scaling"])
        return ModelConfig(**fields)
    except (OSError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: no model: {error}") from error


def tokenizer_fingerprints(directory: PathLike) -> list[str]:
    """Returns the SHA-256 of the tokenizer files that a model was written with.

    Empty where it was written without, by an earlier version or by another program.
    """
    path = pathlib.Path(directory) / MODEL
    if not path.exists():
        return []
    read_config(directory)  # says what is wrong with the file
    return list(json.loads(path.read_text()).get(_TOKENIZER, {}).values())


def verify(directory: PathLike) -> None:
    """Compares a model folder with its checksums; see `manifest.verify`.

    A folder of an earlier version has none, which is told on stderr.
    """
    folder = pathlib.Path(directory)
    if not manifest.verify(folder) and processes.is_process_0():
        print(f"{folder} has no checksums: not verified", file=sys.stderr)


def stored(
    directory: PathLike, layout: Layout | None = None, *, verified: bool = False
) -> Any:
    """Returns the parameter tree of a model folder, with `StoredLeaf` leaves.

    Args:
      directory: folder of the model.
      layout: layout of the leaves when they are read; default: one device.
      verified: whether its files are taken as they are, without `verify`.

    Raises:
      UserError: as `verify`, or the parameters cannot be read.
    """
    if not verified:
        verify(directory)
    params = str(pathlib.Path(directory).absolute() / PARAMS)
    with _reading(params):
        found = ocp.metadata(params).metadata
    if not found:  # what Orbax gives where it cannot read the shapes
        raise UserError(f"{params}: cannot be read: it has no parameters")
    shardings = partition.param_shardings(found, layout or Layout())

    def leaf(path, value, sharding):
        shape = jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)
        return StoredLeaf(
            tuple(value.shape),
            value.dtype,
            functools.partial(_load_leaf, params, found, path, shape),
        )

    return trees.map_items(leaf, found, shardings)


def read(directory: PathLike, layout: Layout | None = None) -> tuple[ModelConfig, Any]:
    """Reads the config and the parameters of a model folder; arguments as `stored`."""
    return read_config(directory), trees.build(leaves(directory, layout))


def leaves(
    directory: PathLike, layout: Layout | None = None, *, verified: bool = False
) -> Iterator[tuple[Path, jax.Array]]:
    """Yields paths and leaves, read one at a time, the largest first.

    Arguments and errors are as for `stored`.
    """
    found = trees.items(stored(directory, layout, verified=verified))
    for path, leaf in sorted(found, key=lambda pair: pair[1].size, reverse=True):
        yield path, leaf.load()


def _load_leaf(
    params: str, found: Any, path: Path, shape: jax.ShapeDtypeStruct
) -> jax.Array:
    def wanted(here: Path, _: Any) -> Any:
        return shape if here == path else ocp.PLACEHOLDER

    with _reading(params):
        return trees.get(ocp.load(params, trees.map_items(wanted, found)), path)


@contextlib.contextmanager
def _reading(params: str) -> Iterator[None]:
    """Tells in one line what is wrong with parameters that are not verified."""
    try:
        yield
    except Exception as error:
        # Orbax raises a bare Exception with pages of TensorStore.
        if type(error) is Exception or isinstance(error, OSError | ValueError):
            reason = str(error).partition("\n")[0][:200]
            raise UserError(f"{params}: cannot be read: {reason}") from error
        raise

"""Reads sharded safetensors files by slices, and writes them tensor by tensor.

Neither side holds more than a tensor in memory, however large the model is.
"""

import functools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from nemojax.errors import UserError
from nemojax.interop import names as tensor_names
from nemojax.io import folders

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
DTYPES = tuple(_NAMES)
# Larger tensors are read in blocks of rows of about this size.
_BLOCK_BYTES = 128 * 2**20
_MOST_SHOWN = 100
_POINTER = b"version https://git-lfs"
Slices = tuple[slice, ...]
Shapes = Mapping[str, tuple[Sequence[int], np.dtype]]


class Reader:
    """The tensors of a directory, by name.

    Attributes:
      shapes: shapes of every tensor.
      dtypes: dtypes of every tensor.
    """

    def __init__(
        self,
        directory: str | pathlib.Path,
        files: Sequence[pathlib.Path] | None = None,
    ):
        """Reads the headers of all files of the model, or of `files`.

        Raises:
          UserError: there are no safetensors, the index names a file or a tensor that
            is not there, a file is truncated or no safetensors file, a tensor is in
            two files, or a tensor's dtype is not supported.
        """
        self._files: dict[str, pathlib.Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        directory = pathlib.Path(directory)
        index = {} if files else _read_index(directory)
        for path in files or _files(directory, index):
            self._read_header(path)
        lost = [n for n, file in index.items() if self._file_name(n) != file]
        if lost:
            raise UserError(
                f"{directory / INDEX}: tensors that are not in the file it names: "
                f"{', '.join(map(tensor_names.shown, lost[:_MOST_SHOWN]))}"
            )

    def _file_name(self, name: str) -> str | None:
        return self._files[name].name if name in self._files else None

    def _read_header(self, path: pathlib.Path) -> None:
        with _open(path) as file:
            for name in file.keys():  # noqa: SIM118 (the file is no mapping)
                view, shown = file.get_slice(name), tensor_names.shown(name)
                if name in self._files:
                    raise UserError(f"{path}: {shown} is also in {self._files[name]}")
                if view.get_dtype() not in _DTYPES:
                    raise UserError(
                        f"{path}: {shown} has dtype {view.get_dtype()}, which is none "
                        f"of {', '.join(_DTYPES)}"
                    )
                self._files[name] = path
                self.shapes[name] = tuple(view.get_shape())
                self.dtypes[name] = _DTYPES[view.get_dtype()]

    def read(self, name: str, index: Slices = ()) -> np.ndarray:
        """Reads a tensor, or the part of it that `index` (of step 1) names."""
        shape, dtype = self.shapes[name], self.dtypes[name]
        if not shape:
            with _open(self._files[name]) as file:
                return file.get_tensor(name)
        index += (slice(None),) * (len(shape) - len(index))
        chosen = [range(size)[part] for part, size in zip(index, shape, strict=True)]
        out = np.empty([len(part) for part in chosen], dtype)
        for start, stop in _blocks(out):
            rows = slice(chosen[0].start + start, chosen[0].start + stop)
            # Opened anew: mapped pages that were read stay resident while it is open.
            with _open(self._files[name]) as file:
                out[start:stop] = file.get_slice(name)[(rows, *index[1:])]
        return out

    def same(self, name: str, other: str) -> bool:
        """Returns whether two tensors hold the same values, of whatever dtype."""
        shape = self.shapes[name]
        if not shape or shape != self.shapes[other]:
            return False
        whole = np.broadcast_to(np.zeros((), self.dtypes[name]), shape)
        return all(
            np.array_equal(self.read(name, (rows,)), self.read(other, (rows,)))
            for rows in (slice(*ends) for ends in _blocks(whole))
        )


def widest(dtypes: Iterable[np.dtype]) -> np.dtype:
    """Returns the dtype that holds all values of some: float32 at least for several."""
    distinct = set(dtypes)
    if len(distinct) == 1:
        return distinct.pop()
    return functools.reduce(np.promote_types, distinct, np.dtype(np.float32))


def _blocks(value: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields starts and ends of blocks of rows of bounded size."""
    step = max(1, _BLOCK_BYTES * len(value) // max(value.nbytes, 1))
    for start in range(0, len(value), step):
        yield start, min(start + step, len(value))


def has_nan(value: np.ndarray) -> bool:
    """Returns whether a tensor with at least one dimension holds NaN."""
    return any(bool(np.isnan(value[a:b]).any()) for a, b in _blocks(value))


def _open(path: pathlib.Path) -> Any:
    try:
        if not path.is_file():
            raise UserError(f"{path}: there is no such file, or no regular one")
        return safetensors.safe_open(path, "numpy")
    except (safetensors.SafetensorError, OSError) as error:
        with path.open("rb") as file:
            pointer = file.read(len(_POINTER)) == _POINTER
        why = (
            "a pointer of Git LFS: fetch the file (git lfs pull)" if pointer else error
        )
        raise UserError(f"{path}: no whole safetensors file: {why}") from error


def are_in(directory: pathlib.Path) -> bool:
    """Returns whether a directory has safetensors of a model."""
    return (directory / SINGLE).exists() or (directory / INDEX).exists()


def _read_index(directory: pathlib.Path) -> Mapping[str, str]:
    """Reads the index's map from tensor to file; empty without an index."""
    path = directory / INDEX
    if not path.exists():
        return {}
    index = folders.read_json(path).get("weight_map")
    if not isinstance(index, dict) or not all(
        isinstance(file, str) for file in index.values()
    ):
        raise UserError(
            f"{path}: no safetensors index: no weight_map from names to files"
        )
    if not all(pathlib.PurePath(file).name == file for file in index.values()):
        raise UserError(f"{path}: names a file outside of its directory")
    return index


def _files(directory: pathlib.Path, index: Mapping[str, str]) -> list[pathlib.Path]:
    if not index:
        path = directory / SINGLE
        if not path.is_file():
            raise UserError(f"{directory}: holds neither {SINGLE} nor {INDEX}")
        return [path]
    paths = [directory / name for name in sorted(set(index.values()))]
    lost = [path.name for path in paths if not path.is_file()]
    if lost:
        raise UserError(
            f"{directory}: the index names missing "
            f"{', '.join(map(tensor_names.shown, lost[:_MOST_SHOWN]))}"
        )
    if (directory / SINGLE).exists() and directory / SINGLE not in paths:
        raise UserError(
            f"{directory}: holds {SINGLE}, and {INDEX} that names other files: delete "
            "those of another model"
        )
    return paths


def plan(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Groups tensors, in their order, into files of at most `max_bytes`.

    A tensor that is larger gets a file of its own.
    """
    groups: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not groups or size > room:
            groups.append([])
            room = max_bytes
        groups[-1].append(name)
        room -= size
    return groups


def write(
    directory: pathlib.Path,
    shapes: Shapes,
    values: Iterator[tuple[str, np.ndarray]],
    max_file_bytes: int,
) -> None:
    """Writes tensors as files with an index, or as one file if they fit.

    Args:
      directory: exists.
      shapes: shape and dtype of each tensor, in the order of `values`.
      values: the tensors; taken one at a time.
      max_file_bytes: most bytes of a file.

    Raises:
      UserError: a dtype that safetensors has no name for here, or values that are
        not those announced.
    """
    sizes = _sizes(shapes)
    groups = plan(sizes, max_file_bytes)
    weight_map = {}
    for number, names in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        file = SINGLE if len(groups) == 1 else file
        weight_map |= dict.fromkeys(names, file)
        write_file(directory / file, {name: shapes[name] for name in names}, values)
    if len(groups) > 1:
        index = {
            "metadata": {"total_size": sum(sizes.values())},
            "weight_map": weight_map,
        }
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def write_file(
    path: pathlib.Path, shapes: Shapes, values: Iterator[tuple[str, np.ndarray]]
) -> None:
    """Writes one file, taking only its own tensors from `values`; see `write`."""
    with path.open("wb") as stream:
        stream.write(_header(shapes))
        for expected, (shape, dtype) in shapes.items():
            name, value = next(values)
            if (name, value.shape, value.dtype) != (expected, tuple(shape), dtype):
                raise UserError(
                    f"{name} {value.dtype}{list(value.shape)} where {expected} "
                    f"{dtype}{list(shape)} was announced"
                )
            np.ascontiguousarray(value).reshape(-1).view(np.uint8).tofile(stream)
        stream.flush()
        os.fsync(stream.fileno())


def _sizes(shapes: Shapes) -> dict[str, int]:
    """Returns the bytes of each tensor."""
    return {
        name: int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        for name, (shape, dtype) in shapes.items()
    }


def _header(shapes: Shapes) -> bytes:
    """Returns the length of the header, and the header, padded to 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, size in _sizes(shapes).items():
        shape, dtype = shapes[name]
        if dtype not in _NAMES:
            raise UserError(f"{name}: safetensors of dtype {dtype} are not supported")
        entries[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [start, start + size],
        }
        start += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text

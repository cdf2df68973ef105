"""Contents of a run's checkpoints, for people: which are whole, how two differ."""

import dataclasses
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from nemojax.errors import UserError
from nemojax.io import manifest
from nemojax.training import checkpoints

_STATE = "default"  # what Orbax calls the only item of a step


@dataclasses.dataclass(frozen=True)
class Saved:
    """A step on the disk.

    Attributes:
      step: number of steps done.
      path: folder of the step.
      files: their number.
      bytes: bytes of all files.
      saved_at: seconds since 1970, when its checksums were written; 0: there are none.
      put_aside: it was found to be damaged, and is not used any more.
    """

    step: int
    path: pathlib.Path
    files: int
    bytes: int
    saved_at: float
    put_aside: bool


def steps(path: pathlib.Path) -> list[Saved]:
    """Lists the steps of a run's or `checkpoints` folder, or the one step given.

    Raises:
      UserError: there is none.
    """
    for folder in (path / "checkpoints", path):
        found = [
            *map(_saved, _numbered(folder)),
            *map(_saved, _numbered(folder / checkpoints.DAMAGED)),
        ]
        if found:
            return sorted(found, key=lambda saved: (saved.step, saved.put_aside))
    if (path / _STATE).is_dir() and path.name.split(".")[0].isdecimal():
        return [_saved(path)]
    raise UserError(f"{path}: no checkpoints: give the folder of a run or of a step")


def differences(one: pathlib.Path, other: pathlib.Path) -> dict[str, str]:
    """Lists how two states, or parameter trees, differ.

    Args:
      one: folder of a step, or of parameters.
      other: another one.

    Returns:
      For each array that differs or is in one of them only, what is different. Reads
      both whole into memory.

    Raises:
      UserError: a folder holds neither.
    """
    a, b = _arrays(one), _arrays(other)
    found = {}
    for name in sorted(a.keys() | b.keys()):
        if name not in a or name not in b:
            found[name] = f"only in {one if name in a else other}"
        elif (a[name].shape, a[name].dtype) != (b[name].shape, b[name].dtype):
            found[name] = (
                f"{a[name].dtype}{list(a[name].shape)} and "
                f"{b[name].dtype}{list(b[name].shape)}"
            )
        elif a[name].tobytes() != b[name].tobytes():
            found[name] = _distance(a[name], b[name])
    return found


def _distance(a: np.ndarray, b: np.ndarray) -> str:
    x, y = a.astype(np.float64), b.astype(np.float64)
    distance = np.abs(x - y)
    count = np.count_nonzero(~(x == y))
    return f"{count:,} of {a.size:,} differ, by up to {np.nanmax(distance):.3g}"


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    folder = path / _STATE if (path / _STATE).is_dir() else path
    handler = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    try:
        metadata = handler.metadata(folder.absolute()).item_metadata
        if metadata is None:
            raise UserError("it has no metadata")
        wanted = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata.tree
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no checkpoint: {error}") from error
    tree = handler.restore(
        folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=wanted)
    )
    return {
        jax.tree_util.keystr(name, simple=True, separator="/"): np.asarray(leaf)
        for name, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _numbered(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        return []
    return [p for p in folder.iterdir() if p.is_dir() and p.name[:1].isdecimal()]


def _saved(path: pathlib.Path) -> Saved:
    files = [file for file in path.rglob("*") if file.is_file()]
    sums = [file.stat().st_mtime for file in path.glob("manifest.*.json")]
    return Saved(
        int(path.name.split(".")[0]),
        path,
        len(files),
        sum(file.stat().st_size for file in files),
        max(sums, default=0.0) if manifest.parts(path) else 0.0,
        path.parent.name == checkpoints.DAMAGED,
    )

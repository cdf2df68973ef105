"""Orbax checkpoints of training states and of parameters."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils


class Checkpoints:
    """The checkpoints of one training run, newest wins.

    A step counts as saved when Orbax has renamed its folder into place; what a killed
    save left behind is removed before the next one.
    """

    def __init__(self, directory: Path, *, keep: int = 1):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=False,
        )
        self.directory = Path(directory).absolute()
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest_step(self) -> int | None:
        """The newest saved step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Saves the state under the number of steps done."""
        self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, like: Any) -> Any:
        """The newest state, with the shapes, dtypes and shardings of `like`."""
        step = self.latest_step()
        if step is None:
            raise ValueError(f"no checkpoint in {self.directory}")
        abstract = jax.tree.map(_abstract, like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def close(self) -> None:
        """Waits for what is being saved and releases the folder."""
        self._manager.close()


def save_params(directory: Path, params: Any) -> None:
    """Writes a parameter tree to a new folder; an old one there is replaced."""
    directory = Path(directory).absolute()
    if directory.exists():
        shutil.rmtree(directory)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory, params)


def load_params(directory: Path, like: Any) -> Any:
    """Reads a parameter tree with the shapes, dtypes and shardings of `like`."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(
            Path(directory).absolute(), jax.tree.map(_abstract, like)
        )


def parameters_sha256(params: Any) -> str:
    """Hash of all parameters, in the order of their paths: equal bits, equal hash."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = _whole(leaf)
        digest.update(
            f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode()
        )
        digest.update(array.tobytes())
    return digest.hexdigest()


def _whole(leaf: Any) -> np.ndarray:
    """The array on the host, with what other processes hold."""
    if getattr(leaf, "is_fully_addressable", True):
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)
    )

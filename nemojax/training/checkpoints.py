"""Orbax checkpoints of training states and of parameters.

Orbax writes in the background; a step counts as saved when its checksums are there, too
(`io.manifest`). What is damaged is never restored: it is put aside by name, and
the newest whole step is taken.
"""

import errno
import math
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from nemojax.errors import UserError
from nemojax.io import manifest
from nemojax.parallel import processes

DAMAGED = "damaged"
_UNFINISHED = ".orbax-checkpoint-tmp"
_ROOM = 1.05  # of the state's size: what else a checkpoint's folder holds
_PATIENCE = 600.0  # seconds that processes may differ in when they have saved


class Checkpoints:
    """The checkpoints of one training run: a folder a step.

    Attributes:
      directory: absolute; its steps are folders, `damaged/` holds what was put aside.
    """

    def __init__(self, directory: Path, *, keep: int = 2):
        """Opens the folder, and removes what saves left that did not end.

        Args:
          directory: folder of this run alone; every process must see it.
          keep: number of newest steps that stay: with two there is one to fall back to.
        """
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None,  # Orbax would delete before the checksums are there
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        self.directory = Path(directory).absolute()
        self._keep = keep
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        if processes.is_process_0():
            for step in _remove_unfinished(self.directory):
                _say(
                    f"{self.directory / str(step)} has no checksums, as if it had not "
                    "been saved to its end: removed"
                )
        processes.barrier("checkpoints are opened")
        handler = ocp.StandardCheckpointHandler()
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_handlers=handler
        )

    def steps(self) -> list[int]:
        """Lists saved steps, oldest first; does not check that they are whole."""
        self._wait()
        folders = _folders(self.directory)
        return sorted(step for step in folders if manifest.parts(folders[step]))

    def save(self, step: int, state: Any) -> None:
        """Starts to save the state under the number of steps done.

        Returns when the state is copied: it may then be donated.

        Raises:
          OSError: the disk has too little space for it; or an earlier save failed.
          UserError: there is a later step.
        """
        self._wait()
        needed = _ROOM * sum(
            math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
            for leaf in jax.tree.leaves(state)
        )
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise OSError(
                errno.ENOSPC,
                f"checkpoint {step} needs {needed / 1e9:,.2f} GB, the disk has "
                f"{free / 1e9:,.2f} GB left",
                str(self.directory),
            )
        if not self._manager.save(step, args=ocp.args.StandardSave(state)):
            raise UserError(
                f"checkpoint {step} cannot be saved: {self.directory} has a later one: "
                f"{self._manager.latest_step()}; remove what is not of this run"
            )
        self._thread = threading.Thread(target=self._finish, args=(step,))
        self._thread.start()

    def restore(self, like: Any) -> Any:
        """Restores the newest whole state; puts damaged ones aside with a message.

        Args:
          like: tree of shapes, dtypes and shardings, which may be of another mesh.

        Returns:
          The state, or None: there is no whole one.

        Raises:
          UserError: it is the state of another model or optimizer, or of another
            step than its folder says.
        """
        abstract = jax.tree.map(_abstract, like)
        for step in reversed(self.steps()):
            if self._is_whole(step):
                self._require_same(step, abstract)
                args = ocp.args.StandardRestore(abstract)
                found = self._manager.restore(step, args=args)
                self._require_own(step, found)
                return found
        return None

    def _require_own(self, step: int, state: Any) -> None:
        """Refuses a folder that was renamed: later steps would not be saved."""
        done = int(getattr(state, "step", step))
        if done != step:
            raise UserError(
                f"{self.directory / str(step)} holds the state after step {done}: "
                f"rename it to {done}, or remove it"
            )

    def _require_same(self, step: int, abstract: Any) -> None:
        """Refuses another dtype, to which Orbax would cast without a word."""
        saved = _kinds(self._manager.item_metadata(step))
        wanted = _kinds(abstract)
        for name in sorted(saved.keys() | wanted.keys()):
            there, here = (kinds.get(name, "nothing") for kinds in (saved, wanted))
            if there != here:
                raise UserError(
                    f"{self.directory / str(step)} is of another model or optimizer: "
                    f"{name} is {there} there and {here} here"
                )

    def check(self) -> None:
        """Raises what a save in the background has raised, if it has."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Waits for what is being saved and releases the folder."""
        try:
            self._wait()
        finally:
            self._manager.close()

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _finish(self, step: int) -> None:
        """Waits for Orbax, writes checksums, then deletes, in the background."""
        try:
            self._manager.wait_until_finished()
            folder, count = self.directory / str(step), jax.process_count()
            _until(folder.is_dir)
            manifest.write(folder, jax.process_index(), count)
            if processes.is_process_0():
                _until(lambda: manifest.parts(folder) == count)
                folders = _folders(self.directory)
                for old in sorted(folders)[: -self._keep]:
                    # Orbax's own would wait for all processes, by a collective among
                    # those of the steps.
                    manifest.remove(folders[old])
                    shutil.rmtree(folders[old])
        except BaseException as error:
            self._error = error
            if processes.is_process_0():
                _remove_unfinished(self.directory)

    def _is_whole(self, step: int) -> bool:
        folder = self.directory / str(step)
        count = jax.process_count()
        found = manifest.problems(folder, jax.process_index(), count)
        for problem in found:
            _say(f"checkpoint {step} is damaged: {folder}/{problem}")
        if not processes.total(len(found)):
            return True
        if processes.is_process_0():
            aside = _free_name(self.directory / DAMAGED / str(step))
            aside.parent.mkdir(exist_ok=True)
            folder.rename(aside)
            _say(f"checkpoint {step} was moved to {aside}; trying an older one")
        processes.barrier("a damaged checkpoint is put aside")
        self._manager.reload()
        return False


def _folders(directory: Path) -> dict[int, Path]:
    """Returns the folders named by a step."""
    if not directory.is_dir():
        return {}
    return {
        int(path.name): path
        for path in directory.iterdir()
        if path.is_dir() and path.name.isdecimal()
    }


def _remove_unfinished(directory: Path) -> list[int]:
    """Removes unfinished saves: the next one may need the space.

    Returns:
      The steps of those that Orbax had ended, but that have no checksums.
    """
    for folder in directory.glob(f"*{_UNFINISHED}*"):
        shutil.rmtree(folder, ignore_errors=True)
    folders = _folders(directory)
    unfinished = [step for step in folders if not manifest.parts(folders[step])]
    for step in unfinished:
        shutil.rmtree(folders[step], ignore_errors=True)
    return unfinished


def _kinds(tree: Any) -> dict[str, str]:
    """Returns "dtype[shape]" by name."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{np.dtype(leaf.dtype)}{list(leaf.shape)}"
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("another process did not save its part of a checkpoint")
        time.sleep(0.05)


def _free_name(path: Path) -> Path:
    number = 1
    while path.exists():
        path = path.with_name(f"{path.name.split('.')[0]}.{number}")
        number += 1
    return path


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def save_params(directory: Path, params: Any) -> None:
    """Writes a parameter tree to a new folder; an old one there is replaced."""
    directory = Path(directory).absolute()
    if processes.is_process_0():
        shutil.rmtree(directory, ignore_errors=True)
    processes.barrier("an older tree is removed")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory, params)
    processes.barrier("a tree is written")
    manifest.write(directory, jax.process_index(), jax.process_count())


def load_params(directory: Path, like: Any) -> Any:
    """Reads a parameter tree with the shapes, dtypes and shardings of `like`.

    Raises:
      UserError: as `manifest.verify`.
    """
    manifest.verify(Path(directory))
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(
            Path(directory).absolute(), jax.tree.map(_abstract, like)
        )


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)
    )

"""The model that a path means: a model folder, a checkpoint, or the folder of a run."""

import os
import pathlib

from nemojax.errors import UserError
from nemojax.interop import model_folder
from nemojax.io import folders

_MODEL, _REPORT = "model", "report.json"  # of a stage, and of a run
_FILES = (model_folder.MODEL, "config.json")  # ours, and Hugging Face's
_DEPTH, _MOST = 4, 5  # folders below a path that are looked at, models that are named


def find_model(path: str | os.PathLike[str]) -> pathlib.Path:
    """Finds the model folder or the Hugging Face checkpoint that a path means.

    Args:
      path: the folder itself; the folder of a stage, whose model is in `model/`; or the
        folder of a run, whose `report.json` names the model of its last stage.

    Raises:
      UserError: there is none, or a run that is not finished has several; the message
        names those that are below the path.
    """
    path = pathlib.Path(path)
    for folder in (path, path / _MODEL, _reported(path)):
        if folder is not None and _is_model(folder):
            return folder
    if not path.exists():
        raise UserError(
            f"{path}: there is no such folder: name a model folder, the folder of a "
            "run, or a Hugging Face checkpoint"
        )
    below = _below(path, _DEPTH)
    if len(below) == 1:
        return below[0]
    if not below:
        raise UserError(
            f"{path}: no model: neither {' nor '.join(_FILES)} is there or below"
        )
    more = f" and {len(below) - _MOST} more" if len(below) > _MOST else ""
    raise UserError(
        f"{path}: several models are below it, name one: "
        f"{', '.join(map(str, below[:_MOST]))}{more}"
    )


def _is_model(folder: pathlib.Path) -> bool:
    return any((folder / name).is_file() for name in _FILES)


def _reported(run: pathlib.Path) -> pathlib.Path | None:
    """Returns the model that the report of a run names, also if the run was moved."""
    try:
        named = pathlib.Path(folders.read_json(run / _REPORT)["model"])
    except (ValueError, KeyError, TypeError):
        return None
    return run / named.parent.name / named.name


def _below(folder: pathlib.Path, depth: int) -> list[pathlib.Path]:
    """Returns the models below a folder, the oldest first."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if _is_model(path):
            found.append(path)
        elif depth > 1 and path.is_dir():
            found += _below(path, depth - 1)
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path))

"""Checksums of a folder's files, written last: a folder with them was saved whole.

Orbax restores flipped bytes without a word. Here each process hashes its share of the
files of a checkpoint, or of a model, and writes `manifest.<part>.json`; a folder is
whole if all parts are there and every file is as they say.
"""

import concurrent.futures
import json
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

from nemojax.errors import UserError
from nemojax.io import folders, sealed

_PREFIX = "manifest."
_THREADS = 8  # hashing releases the interpreter

T = TypeVar("T")


def write(folder: pathlib.Path, part: int = 0, of: int = 1) -> None:
    """Hashes the share `part` of the files of a folder, which must not change any more.

    The file with the checksums appears at once, and is on the disk when it does.
    """
    paths = _files(folder)[part::of]
    files = {
        path.relative_to(folder).as_posix(): {"bytes": size, "sha256": digest}
        for path, (size, digest) in zip(paths, _map(_hash, paths), strict=True)
    }
    content = {"part": part, "parts": of, "files": files}
    target = folder / f"{_PREFIX}{part}.json"
    content = {"sha256": sealed.digest(content), **content}
    folders.write_file(target, json.dumps(content, indent=1))


def parts(folder: pathlib.Path) -> int:
    """Counts the parts that are there; `problems` tells whether that is all."""
    return len(list(folder.glob(f"{_PREFIX}*.json")))


def remove(folder: pathlib.Path) -> None:
    """Makes a folder that is about to be deleted one that was never saved."""
    for path in folder.glob(f"{_PREFIX}*.json"):
        path.unlink()


def problems(folder: pathlib.Path, part: int = 0, of: int = 1) -> list[str]:
    """Lists problems of a folder's manifest, and of a share of its files.

    Returns:
      "file: reason" for each; none if the share is whole.
    """
    found: list[str] = []
    listed: dict[str, dict[str, Any]] = {}
    wanted, seen = 1, set()
    for path in sorted(folder.glob(f"{_PREFIX}*.json")):
        try:
            content = json.loads(path.read_bytes())
            if content.pop("sha256") != sealed.digest(content):
                raise ValueError("it was changed")
            wanted = content["parts"]
            seen.add(content["part"])
            listed |= content["files"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            found.append(f"{path.name}: cannot be read ({error})")
    missing = set(range(wanted)) - seen
    found += [f"{_PREFIX}{n}.json: is missing" for n in sorted(missing)]
    names = sorted(listed)[part::of]
    paths = [folder / name for name in names]
    for name, reason in zip(
        names,
        _map(lambda path: _difference(folder, path, listed), paths),
        strict=True,
    ):
        if reason:
            found.append(f"{name}: {reason}")
    return found


def verify(folder: pathlib.Path) -> bool:
    """Compares a folder with its checksums; returns whether it has any.

    The processes of a run have to call it together; each reads its share of the files.

    Raises:
      UserError: a file is missing or not as it was written; names the first.
    """
    import jax

    from nemojax.parallel import processes

    if not processes.broadcast_from_process_0(lambda: parts(folder)):
        return False
    found = problems(folder, jax.process_index(), jax.process_count())
    total = processes.total(len(found))
    if total:
        first = found[0] if found else "a file, which another process names, is damaged"
        more = f" (and {total - 1} more)" if total > 1 else ""
        raise UserError(
            f"{folder}/{first}{more}: copy the folder or make it again; if the change "
            "is meant, remove manifest.*.json there"
        )
    return True


def _difference(
    folder: pathlib.Path, path: pathlib.Path, listed: dict[str, dict[str, Any]]
) -> str | None:
    expected = listed[path.relative_to(folder).as_posix()]
    if not path.is_file():
        return "is missing"
    try:
        size, digest = _hash(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if size != expected["bytes"]:
        return f"has {size:,} bytes instead of {expected['bytes']:,}"
    return None if digest == expected["sha256"] else "has other bytes than were saved"


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not (path.parent == folder and _is_manifest(path))
    )


def _is_manifest(path: pathlib.Path) -> bool:
    return path.name.startswith(_PREFIX) and path.suffix in (".json", folders.PARTIAL)


def _hash(path: pathlib.Path) -> tuple[int, str]:
    return path.stat().st_size, folders.sha256(path)


def _map(function: Callable[[pathlib.Path], T], paths: list[pathlib.Path]) -> list[T]:
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, paths))

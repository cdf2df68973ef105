"""The files of this working tree, for the tests that read it."""

import functools
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


@functools.cache
def files() -> tuple[pathlib.PurePosixPath, ...]:
    """Paths, relative to the root, of all files that git does not ignore.

    In a copy without git: all files outside hidden folders and run outputs.
    """
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        names = set(listing.stdout.decode().split("\0"))
    except (OSError, subprocess.CalledProcessError):
        names = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*")}
        names = {
            name for name in names if not re.match(r"\.|runs/|.*__pycache__", name)
        }
    paths = (pathlib.PurePosixPath(name) for name in sorted(names) if name)
    return tuple(path for path in paths if (ROOT / path).is_file())


def sources(*folders: str) -> dict[pathlib.PurePosixPath, str]:
    """The Python files below some top folders, with their text."""
    return {
        path: (ROOT / path).read_text(encoding="utf-8")
        for path in files()
        if path.suffix == ".py" and path.parts[0] in folders
    }

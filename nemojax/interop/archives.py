"""Unpacks archives from strangers, if every member is what it should be."""

import contextlib
import pathlib
import tarfile
import tempfile
from collections.abc import Iterator

from nemojax.errors import UserError

MAX_MEMBERS = 10_000_000
# Weights hardly compress; an archive that grows more than this is a bomb.
MAX_RATIO = 20
_ALLOWANCE_BYTES = 64 * 2**20


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives the directory `path`, or a temporary one with the content of a tar file.

    Raises:
      UserError: neither a directory nor a tar file, or an archive with an absolute
        path, one that leaves the directory, a link or a device, or that unpacks to
        more than `MAX_RATIO` times its size.
    """
    if path.is_dir():
        yield path
        return
    if not path.is_file():
        raise UserError(f"{path}: there is no such file or directory")
    with tempfile.TemporaryDirectory(prefix="nemojax-") as scratch:
        target = pathlib.Path(scratch)
        try:
            with tarfile.open(path, "r|*") as archive:
                _extract(archive, target, path)
        except tarfile.TarError as error:
            raise UserError(f"{path}: no readable tar archive: {error}") from error
        yield target


def _extract(
    archive: tarfile.TarFile, target: pathlib.Path, path: pathlib.Path
) -> None:
    most = MAX_RATIO * path.stat().st_size + _ALLOWANCE_BYTES
    total = 0
    for count, member in enumerate(archive):
        if not (member.isfile() or member.isdir()):
            raise UserError(f"{path}: {member.name!r} is a link or a device")
        name = pathlib.PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
            raise UserError(f"{path}: {member.name!r} lies outside of the archive")
        total += member.size
        if total > most or count >= MAX_MEMBERS:
            raise UserError(
                f"{path}: unpacks to more than {most:,} bytes or {MAX_MEMBERS:,} files"
            )
        archive.extract(member, target, filter="data")

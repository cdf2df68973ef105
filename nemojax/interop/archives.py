"""Unpacks archives from strangers, if every member is what it should be."""

import bz2
import contextlib
import gzip
import lzma
import pathlib
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from nemojax.errors import UserError

MAX_MEMBERS = 10_000_000
# Weights hardly compress; an archive that grows more than this is a bomb.
MAX_RATIO = 20
_ALLOWANCE_BYTES = 64 * 2**20
_MAX_DEPTH = 50
_BLOCK = 2**20
# The bytes that compressed files begin with.
_OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_BROKEN = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError)


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
            with _decompressed(path) as stream:
                bounded: Any = _Bounded(stream, path)
                with tarfile.open(fileobj=bounded, mode="r|") as archive:
                    _extract(archive, target, path)
                while bounded.read(_BLOCK):  # the checksum comes at the end
                    pass
        except _BROKEN as error:
            why = str(error).replace(scratch, str(path))
            raise UserError(f"{path}: no readable tar archive: {why}") from error
        try:
            yield target
        except UserError as error:  # nobody knows the temporary folder
            raise UserError(str(error).replace(scratch, str(path))) from error


def _decompressed(path: pathlib.Path) -> IO[bytes]:
    """Opens a file that may be compressed, so that its checksum is looked at."""
    with path.open("rb") as file:
        start = file.read(6)
    for magic, opener in _OPENERS.items():
        if start.startswith(magic):
            return opener(path, "rb")
    return path.open("rb")


class _Bounded:
    """A stream that ends in an error where an archive gives too many bytes."""

    def __init__(self, stream: IO[bytes], path: pathlib.Path):
        self._stream, self._path = stream, path
        self._most = self._left = _most_bytes(path)

    def read(self, size: int) -> bytes:
        """Reads up to `size` bytes."""
        found = self._stream.read(min(size, self._left + 1))
        self._left -= len(found)
        if self._left < 0:
            raise UserError(f"{self._path}: unpacks to more than {self._most:,} bytes")
        return found


def _most_bytes(path: pathlib.Path) -> int:
    return MAX_RATIO * path.stat().st_size + _ALLOWANCE_BYTES


def _extract(
    archive: tarfile.TarFile, target: pathlib.Path, path: pathlib.Path
) -> None:
    most = _most_bytes(path)
    total = 0
    for count, member in enumerate(archive):
        name = pathlib.PurePosixPath(member.name)
        shown = ascii(member.name[:80])
        if not (member.isfile() or member.isdir()):
            raise UserError(f"{path}: {shown} is a link or a device")
        if name.is_absolute() or ".." in name.parts:
            raise UserError(f"{path}: {shown} lies outside of the archive")
        if len(name.parts) > _MAX_DEPTH:
            raise UserError(f"{path}: {shown} lies in more than {_MAX_DEPTH} folders")
        total += member.size
        if total > most or count >= MAX_MEMBERS:
            raise UserError(
                f"{path}: unpacks to more than {most:,} bytes or {MAX_MEMBERS:,} files"
            )
        archive.extract(member, target, filter="data")

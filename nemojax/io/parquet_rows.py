"""Rows of Parquet files, whatever types their columns have.

A value that Python has no object for, such as a date outside of its calendar, is an
`Unreadable`: it does no harm in a column that nobody reads, and is of the wrong type in
one that somebody does.
"""

import contextlib
import dataclasses
import importlib
from collections.abc import Iterator
from typing import Any

from nemojax.io import quarantine
from nemojax.io.quarantine import BadRow, DataError, PathLike, Row

_ROWS = 256  # held at once


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """A value of a table that no object of Python can hold.

    Attributes:
      type: its type, as Arrow writes it.
    """

    type: str


def arrow(name: str, path: PathLike) -> Any:
    """Returns a module of pyarrow; raises DataError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(
            f"{path}: needs pyarrow, which is not installed: "
            "pip install 'nemojax[data]'"
        ) from error


def read(stream: Any, file: str, after: int) -> Iterator[Row | BadRow]:
    """Yields the rows, some at a time.

    Args:
      stream: content of the file.
      file: name of the file, for messages.
      after: rows up to this number are passed over.

    Raises:
      DataError: no Parquet file, a damaged one, or one with a column twice.
    """
    with _opened(stream, file) as table:
        number = 0
        for batch in table.iter_batches(_ROWS):
            if number + batch.num_rows <= after:
                number += batch.num_rows
                continue
            names = batch.schema.names
            for cells in zip(*map(_values, batch.columns), strict=True):
                number += 1
                if number > after:
                    value = dict(zip(names, cells, strict=True))
                    yield quarantine.checked_cells(value, file, number)


def count(stream: Any, file: str) -> int:
    """Counts the rows of `read`, and raises as it does."""
    with _opened(stream, file) as table:
        return table.metadata.num_rows


@contextlib.contextmanager
def _opened(stream: Any, file: str) -> Iterator[Any]:
    pyarrow, parquet = (arrow(name, file) for name in ("pyarrow", "pyarrow.parquet"))
    try:
        table = parquet.ParquetFile(stream, page_checksum_verification=True)
        names = table.schema_arrow.names
        if len(set(names)) < len(names):
            twice = min(name for name in names if names.count(name) > 1)
            raise DataError(f"{file}: the column {twice!r} comes twice; rename one.")
        yield table
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{file}: corrupt parquet file ({error}).") from error


def _values(column: Any) -> list[Any]:
    try:
        return column.to_pylist()
    except _NO_OBJECT:
        return [_value(scalar) for scalar in column]


# A time zone that is unknown is a KeyError.
_NO_OBJECT = (ValueError, OverflowError, KeyError)


def _value(scalar: Any) -> Any:
    """Returns a value, of which parts may be unreadable or not UTF-8."""
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        if hasattr(scalar, "as_buffer"):
            return scalar.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
    except _NO_OBJECT:
        pass
    kind = type(scalar).__name__
    if kind == "StructScalar" and len(set(scalar)) == len(scalar):
        return {name: _value(scalar[name]) for name in scalar}
    if kind.endswith(("ListScalar", "MapScalar")):
        return [_value(item) for item in scalar.values]
    return Unreadable(str(scalar.type))

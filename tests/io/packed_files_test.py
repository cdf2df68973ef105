"""zstd and Parquet, which pyarrow reads: as plain JSON lines, whole or broken."""

import io
import json

import pytest

from nemojax.io import files

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

VALUES = [{"text": f"row {k}, ünïcode", "meta": {"ids": [k, -k]}} for k in range(700)]
LINES = "".join(json.dumps(value) + "\n" for value in VALUES).encode()


def zstd(content: bytes) -> bytes:
    packed = arrow.BufferOutputStream()
    with arrow.CompressedOutputStream(packed, "zstd") as stream:
        stream.write(content)
    return packed.getvalue().to_pybytes()


def table(values) -> bytes:
    stream = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(values), stream, row_group_size=300)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", LINES),
        ("rows.jsonl.zst", zstd(LINES)),
        ("rows.json.zst", zstd(json.dumps(VALUES).encode())),
        ("rows.parquet", table(VALUES)),
    ],
)
def test_every_packing_gives_the_same_rows(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    rows = list(files.read_rows(path))
    assert [row.value for row in rows] == VALUES
    assert [row.row for row in rows] == list(range(1, len(VALUES) + 1))
    assert files.list_files(tmp_path) == [path]
    assert files.count_rows(path) == len(VALUES)
    for after in (1, len(VALUES) // 2, len(VALUES)):
        assert list(files.read_rows(path, after)) == rows[after:]


def test_a_zstd_file_cut_short_keeps_the_rows_before_the_cut(tmp_path):
    path = tmp_path / "rows.jsonl.zst"
    # Two frames, the second of which is cut.
    path.write_bytes(zstd(LINES) + zstd(LINES)[:-20])
    *good, bad = files.read_rows(path)
    assert [row.value for row in good[: len(VALUES)]] == VALUES
    assert (bad.row, bad.reason) == (len(good) + 1, "truncated zstd file")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.jsonl.zst", b'{"a": 1}', "corrupt zstd"),
        ("rows.json.zst", zstd(LINES)[:-9], "truncated zstd"),
        ("rows.parquet", b'{"a": 1}', "corrupt parquet"),
        ("rows.parquet", table(VALUES)[:-200], "corrupt parquet"),
    ],
)
def test_a_useless_file_is_named_with_the_reason(name, content, reason, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(files.DataError, match=rf"{name}: {reason}"):
        list(files.read_rows(path))


def test_an_unusable_text_of_a_table_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(table([{"text": "good"}, {"text": "nul \0"}, {"text": "good"}]))
    first, bad, last = files.read_rows(path)
    assert (first.value, last.value) == ({"text": "good"}, {"text": "good"})
    assert (bad.row, bad.field) == (2, "text")
    assert "NUL" in bad.reason

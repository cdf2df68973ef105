"""Tables with columns of all types: read where it matters, never the end of a run."""

import contextlib
import io

import pytest

from nemojax.data.rows import formats
from nemojax.io import files, parquet_rows

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

UNITS = ("s", "ms", "us", "ns")
NAMES = """null bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32
float64 string large_string string_view binary large_binary binary_view date32 date64
uuid json_"""
PLAIN = [getattr(arrow, name)() for name in NAMES.split() if hasattr(arrow, name)]
TYPES = [
    *PLAIN,
    *(arrow.timestamp(unit, zone) for unit in UNITS for zone in (None, "UTC", "Not/A")),
    *(arrow.duration(unit) for unit in UNITS),
    *(arrow.time32(unit) for unit in UNITS[:2]),
    *(arrow.time64(unit) for unit in UNITS[2:]),
    arrow.binary(3),
    arrow.decimal128(5, 2),
    arrow.decimal256(50, 2),
    arrow.dictionary(arrow.int8(), arrow.string()),
]
EXTREMES = [1, 2**31 - 1, -(2**31), 2**62, 2**63 - 1, -(2**63)]


def columns(kind):
    """Columns of one value each: the smallest, the largest, some of no calendar."""
    for value in [*EXTREMES, None, "x", b"\xff\0x", True, 1.5]:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            yield arrow.array([value], kind)
        size = {32: arrow.int32(), 64: arrow.int64()}.get(_width(kind))
        if size and isinstance(value, int) and not isinstance(value, bool):
            clipped = max(-(2 ** (_width(kind) - 1)), min(value, 2**31 - 1))
            number = value if _width(kind) == 64 else clipped
            yield arrow.array([number], size).view(kind)


def _width(kind):
    try:
        return kind.bit_width
    except ValueError:
        return 0


def nested(column):
    """The column, and as a part of lists, objects and maps."""
    yield column
    yield arrow.ListArray.from_arrays([0, 1], column)
    yield arrow.StructArray.from_arrays([column], ["part"])
    yield arrow.MapArray.from_arrays([0, 1], arrow.array(["key"]), column)


def write(path, table):
    stream = io.BytesIO()
    parquet.write_table(table, stream)
    path.write_bytes(stream.getvalue())
    return path


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_a_column_of_any_type_harms_neither_good_nor_bad_rows(kind, tmp_path):
    tried = 0
    for plain in columns(kind):
        for column in nested(plain):
            twice = arrow.chunked_array([column, column]).combine_chunks()
            answers = arrow.array(["a", " "])
            table = arrow.table(
                {"prompt": ["q", "q"], "response": answers, "when": twice}
            )
            try:
                path = write(tmp_path / "rows.parquet", table)
            except (arrow.ArrowException, NotImplementedError):
                continue  # no Parquet file has it
            (_, record), bad = formats.open_file(path).rows
            assert record.last_response == "a"
            quarantine = files.Quarantine()
            quarantine.add(bad)
            assert quarantine.counts == {"empty response": 1}
            assert quarantine.rows[0].excerpt.startswith('{"prompt": "q", "resp')
            tried += 1
    assert tried


def test_what_no_object_can_hold_is_no_text_and_no_number(tmp_path):
    late = arrow.array([2**62], arrow.int64()).view(arrow.timestamp("us"))
    table = arrow.table({"prompt": ["q"], "response": late})
    path = write(tmp_path / "rows.parquet", table)
    (row,) = files.read_rows(path)
    assert row.value["response"] == parquet_rows.Unreadable("timestamp[us]")
    (bad,) = formats.open_file(path).rows
    assert (bad.field, bad.reason) == ("response", "wrong type")


def test_text_that_is_not_utf8_is_named_and_costs_no_other_row(tmp_path):
    raw = arrow.array([b"good", b"\xff", b"good"]).view(arrow.string())
    for column in (raw, arrow.ListArray.from_arrays([0, 1, 2, 3], raw)):
        table = arrow.table({"text": column})
        first, bad, last = files.read_rows(write(tmp_path / "a.parquet", table))
        assert first.value == last.value
        assert (bad.row, bad.field, bad.reason) == (2, "text", "not UTF-8")


def test_a_column_that_comes_twice_is_refused(tmp_path):
    column = arrow.array(["a"])
    table = arrow.Table.from_arrays([column] * 3, ["text", "other", "text"])
    path = write(tmp_path / "rows.parquet", table)
    for read in (files.count_rows, lambda path: list(files.read_rows(path))):
        with pytest.raises(files.DataError, match="column 'text' comes twice"):
            read(path)


def test_a_text_of_a_map_is_looked_at(tmp_path):
    maps = arrow.array(
        [[("key", "nul \0")]], arrow.map_(arrow.string(), arrow.string())
    )
    path = write(tmp_path / "rows.parquet", arrow.table({"text": maps}))
    (bad,) = files.read_rows(path)
    assert (bad.field, bad.reason) == ("text", "NUL character")


def test_a_page_with_a_wrong_checksum_is_refused(tmp_path):
    stream = io.BytesIO()
    table = arrow.table({"text": ["a text that is good"] * 9})
    parquet.write_table(
        table,
        stream,
        write_page_checksum=True,
        use_dictionary=False,
        compression="none",
        write_statistics=False,
    )
    content = bytearray(stream.getvalue())
    content[content.index(b"a text")] ^= 1
    path = tmp_path / "rows.parquet"
    path.write_bytes(content)
    with pytest.raises(files.DataError, match=r"rows\.parquet: "):
        list(files.read_rows(path))

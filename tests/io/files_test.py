import gzip
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemojax.io import files

# Each broken line with the field and the reason that must be given for it.
BROKEN_LINES = [
    (b'{"text": "cut', "", "not JSON"),
    (b'{"text": "a"} {"text": "b"}', "", "not JSON"),
    (b'{"text": "a", "text": "b"}', "text", "a field comes twice"),
    (b'{"turns": [{"value": "a", "value": "a"}]}', "value", "a field comes twice"),
    (b'{"text": "nul \x00"}', "", "NUL character"),
    (b'{"text": "nul \\u0000"}', "text", "NUL character"),
    (b'{"a": 1, "turns": [{"value": "\\ud800"}]}', "turns", "lone surrogate"),
    (b'{"a": [{"\\udc00": 1}]}', "a", "lone surrogate"),
    (b'{"\\udc00": 1}', "\\udc00", "lone surrogate"),
    (b'{"text": "\xff\xfe"}', "", "not UTF-8"),
    (b'["a", "list"]', "", "not an object"),
    (b"null", "", "not an object"),
    (b"[" * 100_000, "", "not JSON"),
    (b'{"text": ' + b"9" * 5000 + b"}", "", "not JSON"),
]


def write(path, content: bytes):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12\n"


def split(path):
    rows = list(files.read_rows(path))
    good = [row for row in rows if isinstance(row, files.Row)]
    bad = [row for row in rows if isinstance(row, files.BadRow)]
    assert len(good) + len(bad) == len(rows)
    return good, bad


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_every_broken_line_is_named_and_every_good_one_survives(tmp_path, name):
    """Good lines stand between the broken ones, in the odd rows."""
    lines = []
    for number, (line, _, _) in enumerate(BROKEN_LINES):
        lines += [json.dumps({"text": f"good {number}"}).encode(), line]
    path = write(tmp_path / name, b"\n".join(lines))
    good, bad = split(path)
    assert [row.value["text"] for row in good] == [
        f"good {number}" for number in range(len(BROKEN_LINES))
    ]
    assert [row.row for row in good] == list(range(1, len(lines), 2))
    assert [(row.row, row.field, row.reason) for row in bad] == [
        (2 * number + 2, field, reason)
        for number, (_, field, reason) in enumerate(BROKEN_LINES)
    ]
    assert {row.file for row in good + bad} == {str(path)}
    assert bad[0].excerpt == '{"text": "cut'


@pytest.mark.parametrize("name", ["rows.json", "rows.json.gz"])
def test_a_list_names_its_broken_elements_by_place(tmp_path, name):
    path = write(tmp_path / name, rb'[{"a": 1}, 7, {"b": "\ud800"}, {"c": "\u00e9"}]')
    good, bad = split(path)
    assert [(row.row, row.value) for row in good] == [(1, {"a": 1}), (4, {"c": "é"})]
    assert [(row.row, row.field, row.reason) for row in bad] == [
        (2, "", "not an object"),
        (3, "b", "lone surrogate"),
    ]


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path):
    """Also: a line may end in CRLF, and the last one in nothing."""
    path = write(tmp_path / "rows.jsonl", b'\n \t\r\n{"a": 1}\r\n\n{"a": 2}')
    good, bad = split(path)
    assert [(row.row, row.value["a"]) for row in good] == [(3, 1), (5, 2)]
    assert bad == []


MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", MARK + b'{"a": "1"}\n' + MARK + b'{"a": "2"}\n'),  # two files
        ("a.jsonl.gz", MARK + b'{"a": "1"}\n{"a": "2"}'),
        ("a.jsonl", MARK + b'\n{"a": "1"}\n{"a": "2"}'),
        ("a.json", MARK + b'[{"a": "1"}, {"a": "2"}]'),
        ("a.csv", MARK + b'"a"\n1\n2\n'),
    ],
)
def test_a_byte_order_mark_costs_no_row(tmp_path, name, content):
    path = write(tmp_path / name, content)
    good, bad = split(path)
    assert [row.value for row in good] == [{"a": "1"}, {"a": "2"}]
    assert not bad and files.count_rows(path) == 2


def test_a_zeroed_beginning_is_a_bad_row(tmp_path):
    good, bad = split(write(tmp_path / "a.jsonl", b"\0" * 64 + b'\n{"a": "1"}\n'))
    assert [row.value for row in good] == [{"a": "1"}]
    assert [row.reason for row in bad] == ["NUL character"]


def test_surrogate_pairs_are_text(tmp_path):
    path = write(tmp_path / "rows.jsonl", rb'{"text": "\ud83d\ude00"}')
    assert split(path)[0][0].value == {"text": "😀"}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_line_over_the_cap_is_one_bad_row(tmp_path, monkeypatch, name):
    """A line that fits exactly is read; a longer one is skipped to its end."""
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 64)
    fits = b'{"text": "' + b"x" * (64 - 12) + b'"}'
    assert len(fits) == 64
    huge = b'{"text": "' + b"y" * 1000 + b'"}'
    path = write(tmp_path / name, b"\n".join([fits, huge, fits, huge]))
    good, bad = split(path)
    assert [row.row for row in good] == [1, 3]
    assert [(row.row, row.reason) for row in bad] == [
        (2, "line longer than 10 MB"),
        (4, "line longer than 10 MB"),
    ]


def test_rows_are_streamed(tmp_path):
    """The first row of a compressed file comes before its end has been read."""
    lines = b"".join(
        b'{"n": %d, "r": "%s"}\n' % (n, os.urandom(99).hex().encode())
        for n in range(20_000)
    )
    broken_at_the_end = gzip.compress(lines)[:-100]
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(broken_at_the_end)
    rows = files.read_rows(path)
    assert next(rows).value["n"] == 0


def test_a_gzip_file_cut_short_keeps_the_rows_before_the_cut(tmp_path):
    lines = [json.dumps({"n": n, "r": os.urandom(99).hex()}) for n in range(500)]
    whole = gzip.compress("\n".join(lines).encode())
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    good, bad = split(path)
    assert [row.value["n"] for row in good] == list(range(len(good)))
    assert 0 < len(good) < 500
    assert [(row.row, row.reason) for row in bad] == [
        (len(good) + 1, "truncated gzip file")
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz"])
@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_is_a_bad_row(tmp_path, name, content):
    assert [
        (bad.row, bad.reason) for bad in split(write(tmp_path / name, content))[1]
    ] == [(0, "empty file")]


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


CORRUPT = gzip.compress(b'{"text": "some text that is compressed"}\n' * 9)
UNUSABLE_FILES = {
    "not_gzip.jsonl.gz": (b'{"a": 1}', "corrupt gzip"),
    "checksum.jsonl.gz": (flipped(CORRUPT, -8 % len(CORRUPT)), "corrupt gzip"),
    "stream.jsonl.gz": (flipped(CORRUPT, 12), "corrupt gzip"),
    "cut.json.gz": (gzip.compress(b"[" + b"1, " * 999)[:-9], "truncated gzip"),
    "object.json": (b'{"a": 1}', "expected a list"),
    "lines.json": (b'{"a": 1}\n{"a": 2}', "name it .jsonl"),
    "twice.json": (b'[{"a": 1, "a": 2}]', "field 'a': a field comes twice"),
    "pointer.jsonl": (POINTER, "a pointer of git-lfs"),
    "pointer.json.gz": (POINTER, "a pointer of git-lfs"),
    "pointer.csv.zst": (POINTER, "a pointer of git-lfs"),
    "pointer.parquet": (POINTER, "a pointer of git-lfs"),
    "wide.jsonl": ('{"a": "é"}\n'.encode("utf-16"), "UTF-16"),
    "little.json": ('[{"a": 1}]'.encode("utf-16-le"), "UTF-16"),
    "big.csv": ("prompt,response\n".encode("utf-16-be"), "UTF-16"),
    "wider.jsonl": ('{"a": "b"}\n'.encode("utf-32"), "UTF-16 or UTF-32"),
    "packed.jsonl.gz": (gzip.compress('{"a": "b"}\n'.encode("utf-16")), "UTF-16"),
    "latin.json": (b'["\xe9"]', "not UTF-8"),
    "table.tsv": (b"a\tb", "unknown kind of file"),
}


@pytest.mark.parametrize("name", UNUSABLE_FILES)
def test_an_unusable_file_is_named_in_one_line(tmp_path, name):
    content, problem = UNUSABLE_FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(files.DataError, match=problem) as caught:
        list(files.read_rows(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_over_the_cap_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 10)
    assert len(split(write(tmp_path / "fits.json", b'[{"a": 1}]'))[0]) == 1
    with pytest.raises(files.DataError, match=r"turn it into a \.jsonl file"):
        list(files.read_rows(write(tmp_path / "huge.json", b'[{"a": 1} ]')))


def test_missing_and_irregular_files_are_named(tmp_path):
    with pytest.raises(files.DataError, match=r"absent\.jsonl: no such file"):
        list(files.read_rows(tmp_path / "absent.jsonl"))
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    with pytest.raises(files.DataError, match="not a regular file"):
        list(files.read_rows(folder))
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    with pytest.raises(files.DataError, match="not a regular file"):
        list(files.read_rows(pipe))


def test_a_file_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    """By a stand-in for `open`, since the permissions of files do not bind root."""
    path = write(tmp_path / "locked.jsonl", b"{}")

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "open", refuse, raising=False)
    with pytest.raises(files.DataError, match=r"locked\.jsonl.*Permission denied"):
        list(files.read_rows(path))


def test_list_files_opens_folders_and_keeps_the_given_order(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("b.json", "a.jsonl.gz", "notes.txt"):
        (folder / name).touch()
    single = tmp_path / "z.jsonl"
    single.touch()
    inside = [folder / "a.jsonl.gz", folder / "b.json"]
    assert files.list_files(str(folder)) == inside
    assert files.list_files([single, folder]) == [single, *inside]


def test_list_files_names_what_is_missing(tmp_path):
    with pytest.raises(files.DataError, match="the folder holds no data file"):
        files.list_files(tmp_path)
    with pytest.raises(files.DataError, match="no such file or folder"):
        files.list_files(tmp_path / "absent")
    with pytest.raises(files.DataError, match="No data file was named"):
        files.list_files([])


@settings(max_examples=200)
@given(
    content=st.one_of(
        st.binary(),
        st.lists(
            st.sampled_from([b'{"a":', b'"\\ud800"', b"}", b"\n", b"\r", b"[", b"\x00"])
        ).map(b"".join),
        st.recursive(
            st.none() | st.text() | st.floats() | st.integers(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ).map(lambda value: json.dumps(value).encode()),
    ),
    suffix=st.sampled_from(files.SUFFIXES),
    compress=st.booleans(),
    cut=st.integers(0, 12),
)
def test_any_bytes_give_rows_or_a_data_error(
    tmp_path_factory, content, suffix, compress, cut
):
    if compress:
        content = gzip.compress(content)
    path = tmp_path_factory.mktemp("any") / f"file{suffix}"
    path.write_bytes(content[: len(content) - cut])
    try:
        rows = list(files.read_rows(path))
    except files.DataError as error:
        assert str(path) in str(error)
        return
    assert rows, "a file without rows has to say so"
    for row in rows:
        if isinstance(row, files.Row):
            json.dumps(row.value, ensure_ascii=False).encode("utf-8")
        else:
            assert row.reason
            row.excerpt.encode("utf-8")


def test_flips_of_a_compressed_file_are_never_silent(tmp_path):
    """Whatever byte of the data changes: other rows never come without an error."""
    content = b"".join(b'{"n": %d}\n' % n for n in range(50))
    compressed = gzip.compress(content)
    expected = [{"n": n} for n in range(50)]
    path = tmp_path / "rows.jsonl.gz"
    noticed = 0
    for at in range(10, len(compressed)):
        path.write_bytes(flipped(compressed, at))
        try:
            good, bad = split(path)
        except files.DataError:
            noticed += 1
            continue
        assert bad or [row.value for row in good] == expected
    assert noticed > len(compressed) // 2


SKIPPED = {
    "rows.jsonl": b'{"a": 1}\n\nbroken\n \n{"a": 2}\r\n{"a": 3}',
    "rows.jsonl.gz": b'{"a": 1}\nbroken\n{"a": 2}\n',
    "rows.json": b'[{"a": 1}, 7, {"a": 2}]',
    "empty.jsonl": b"",
}


@pytest.mark.parametrize("name", SKIPPED)
def test_reading_goes_on_after_any_row(tmp_path, name):
    path = write(tmp_path / name, SKIPPED[name])
    rows = list(files.read_rows(path))
    assert files.count_rows(path) == len(rows)
    for after in range(1, rows[-1].row + 2):
        expected = [row for row in rows if row.row > after]
        assert list(files.read_rows(path, after)) == expected


def test_a_line_too_long_and_a_cut_are_counted_as_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 20)
    content = b'{"a": 1}\n{"a": "' + b"x" * 50 + b'"}\n{"a": 2}\n'
    path = write(tmp_path / "rows.jsonl", content)
    assert files.count_rows(path) == len(list(files.read_rows(path))) == 3
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(
        gzip.compress(os.urandom(99).hex().encode() + b"\n" + content)[:-30]
    )
    rows = list(files.read_rows(cut))
    assert rows[-1].reason == "truncated gzip file"
    assert files.count_rows(cut) == len(rows)


@settings(max_examples=200)
@given(
    at=st.integers(0),
    damage=st.one_of(st.just(b""), st.binary(min_size=1, max_size=3)),
    taken=st.integers(0, 3),
)
def test_damage_of_a_line_costs_no_other_row(tmp_path_factory, at, damage, taken):
    """Whatever bytes are put in, taken out or replaced: the others are as before."""
    lines = [json.dumps({"n": n, "text": 'a "b"'}).encode() + b"\n" for n in range(8)]
    content = b"".join(lines)
    at %= len(content)
    path = tmp_path_factory.mktemp("damage") / "rows.jsonl"
    path.write_bytes(content[:at] + damage + content[at + taken :])
    first, last = (content[:end].count(b"\n") for end in (at, at + taken))
    good, bad = split(path)
    assert len(good) + len(bad) == files.count_rows(path)
    values = [row.value for row in good]
    for n in {*range(8)} - {*range(first, last + 1)}:
        assert {"n": n, "text": 'a "b"'} in values
    assert len(good) >= 8 - (last - first + 1)

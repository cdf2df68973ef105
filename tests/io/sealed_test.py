"""JSON with its own checksum: what was changed is told by name, and never used."""

import json

from nemojax.errors import UserError
from nemojax.io import sealed

VALUE = {"b": [1, 2.5, None], "a": {"text": "two \u00e9", "n": 3}, "checks": "x"}


def bit_flips(content):
    """All contents of which one bit differs."""
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def test_an_object_is_read_as_it_was_written(tmp_path):
    sealed.write(tmp_path / "a.json", VALUE | {"pair": (1, 2)})
    assert sealed.read(tmp_path / "a.json") == VALUE | {"pair": [1, 2]}


def test_one_of_an_earlier_version_is_taken_as_it_is(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(VALUE))
    assert sealed.read(tmp_path / "a.json") == VALUE


def test_no_flipped_bit_passes(tmp_path):
    """One in the checksum's name leaves an unknown field beside the right values."""
    path = tmp_path / "a.json"
    sealed.write(path, VALUE)
    for content in bit_flips(path.read_bytes()):
        path.write_bytes(content)
        try:
            found = sealed.read(path)
        except UserError as error:
            assert str(path) in str(error)
        else:
            assert found.items() >= VALUE.items()


def test_a_changed_line_is_told_and_left_out(tmp_path, capsys):
    path, rows = tmp_path / "a.jsonl", [{"step": k, "loss": 1 / k} for k in (1, 2, 3)]
    lines = [sealed.line(row) for row in rows]
    path.write_text("".join(lines))
    assert sealed.read_lines(path) == rows
    for bad in ("0.6", "{", "[1]"):
        path.write_text(lines[0] + lines[1].replace("0.5", bad) + lines[2])
        assert sealed.read_lines(path) == [rows[0], rows[2]]
        assert f"{path}, line 2: left out" in capsys.readouterr().err
    path.write_text(lines[0] + lines[1][:-1])
    assert sealed.read_lines(path) == rows[:1]  # a kill leaves a torn last line
    assert sealed.read_lines(tmp_path / "none") == []

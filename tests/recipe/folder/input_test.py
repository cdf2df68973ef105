"""Input that cannot be used ends with one line that names it, and changes nothing."""

import gzip
import pathlib
import subprocess
import sys

import pytest

from nemojax.cli import command
from tests import scripts
from tests.recipe.folder import real_folder

recipe = scripts.load("experiments.recipe")


@pytest.fixture
def data(tmp_path):
    return real_folder.write(tmp_path / "data")


def missing_folder(data: pathlib.Path) -> pathlib.Path:
    return data.rename(data.with_name("elsewhere"))


def empty_folder(data: pathlib.Path) -> str:
    missing_folder(data)
    data.mkdir()
    return "no data file matches pretrain/english-*"


def missing_kind(data: pathlib.Path) -> str:
    for path in (data / "preference").glob("hh_*"):
        path.unlink()
    for path in (data / "preference").glob("dpo_*"):
        path.unlink()
    return "preference/hh_* or preference/dpo_* (for preferences)"


def corrupt_file(data: pathlib.Path) -> str:
    path = data / "pretrain/english-00000.jsonl.gz"
    path.write_bytes(b"this is not gzip")
    return f"{path}: corrupt gzip data"


def file_that_is_a_folder(data: pathlib.Path) -> str:
    path = data / "sft/chat.jsonl"
    path.unlink()
    path.mkdir()
    return f"{path}: "


def unknown_format(data: pathlib.Path) -> str:
    path = data / "sft/chat.jsonl"
    real_folder.lines(path, [{"colour": "green"}] * 9)
    return f"{path}: unknown format, with the fields colour"


def malformed_rows(data: pathlib.Path) -> str:
    path = data / "math/gsm8k_train.jsonl.gz"
    rows = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(rows + b'{"question": 7, "answer": "seven"}\n' * 6))
    return f"the first is {path}, row 21, field 'question': wrong type"


def empty_file(data: pathlib.Path) -> str:
    path = data / "pretrain/dev-code.jsonl"
    path.write_text("")
    return str(path)


BREAKS = (
    empty_folder,
    missing_kind,
    corrupt_file,
    file_that_is_a_folder,
    unknown_format,
    malformed_rows,
    empty_file,
)


def end(data, workdir, capsys, json_path=None) -> str:
    """The one line of a run that must not start."""

    def run() -> int:
        return recipe.run_recipe(
            str(data), str(workdir), real_folder.settings(), json_path
        )

    assert command.main(run) == command.BAD_INPUT
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("breaks", BREAKS, ids=lambda breaks: breaks.__name__)
def test_bad_data_is_named_before_anything_is_written(breaks, data, tmp_path, capsys):
    expected = breaks(data)
    assert expected in end(data, tmp_path / "work", capsys)
    assert not (tmp_path / "work").exists()


def test_workdir_that_is_a_file(data, tmp_path, capsys):
    path = tmp_path / "work"
    path.write_text("mine")
    assert f"{path} is a file" in end(data, path, capsys)
    assert path.read_text() == "mine"


def test_workdir_with_other_things_in_it(data, tmp_path, capsys):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("mine")
    assert "is not empty and holds no run" in end(data, tmp_path / "work", capsys)
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["thesis.txt"]


def test_place_for_json_is_checked_before_the_work(data, tmp_path, capsys):
    place = tmp_path / "nowhere" / "x.json"
    assert str(place) in end(data, tmp_path / "work", capsys, json_path=str(place))
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "name the data: --data=... (folder of the data files)\n"),
        (["--data=nowhere"], "nowhere: no such folder; name the folder of the data.\n"),
    ],
)
def test_script_ends_with_status_2_and_no_traceback(flags, line):
    found = subprocess.run(
        [sys.executable, "-m", "experiments.recipe", *flags],
        cwd=pathlib.Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stdout, found.stderr) == (2, "", line)

"""A run's folder is its own, and what is finished in it is done once."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from nemojax.errors import UserError
from nemojax.io import folders, sealed, workdir
from nemojax.io.workdir import Workdir, WorkdirError

CONFIGURATION = {"seed": 1, "model": {"layers": 2}, "rates": (0.1, 0.2)}
ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "one"


def contents(folder):
    """Every file below a folder with its text, to see that nothing changed."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def open_again(folder, configuration=None):
    """Opens and closes, with the configuration of these tests by default."""
    Workdir(folder, CONFIGURATION if configuration is None else configuration).close()


def test_a_new_folder_gets_its_configuration(folder):
    open_again(folder)
    stored = sealed.read(folder / "configuration.json")
    assert stored == {"seed": 1, "model": {"layers": 2}, "rates": [0.1, 0.2]}
    open_again(folder)  # a tuple is what JSON makes of it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, r"\(seed: 1 -> 2\)"),
        ({"extra": 5}, r"\(extra: nothing -> 5\)"),
        ({"model": {"layers": 3}}, r"\(model.layers: 2 -> 3"),
        (
            {"seed": 2, "rates": []},
            r"\(rates: nothing -> \[\]; seed: 1 -> 2; rates.0: 0.1 -> n",
        ),
    ],
)
def test_another_configuration_is_refused_by_key_and_changes_nothing(
    folder, change, message
):
    open_again(folder)
    before = contents(folder)
    with pytest.raises(WorkdirError, match=message):
        open_again(folder, CONFIGURATION | change)
    assert contents(folder) == before
    open_again(folder)


def test_a_result_that_was_changed_is_not_taken(folder):
    workdir = Workdir(folder, CONFIGURATION)
    workdir.stage("one", lambda directory: {"loss": 1.5})
    path = folder / "one" / "result.json"
    path.write_text(path.read_text().replace("1.5", "2.5"))
    with pytest.raises(UserError, match=r"one/result\.json: it was changed"):
        workdir.stage("one", lambda directory: {})
    workdir.close()


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(WorkdirError, match="is not empty and holds no run"):
        open_again(tmp_path)
    assert contents(tmp_path) == {"thesis.txt": "years of work"}


def test_a_file_is_refused(tmp_path):
    file = tmp_path / "run"
    file.write_text("x")
    with pytest.raises(WorkdirError, match="is a file: give --workdir a folder"):
        open_again(file)
    assert file.read_text() == "x"


@pytest.mark.parametrize("text", ["", '{"seed":', "[1]", "3"])
def test_a_configuration_that_cannot_be_read_is_refused(folder, text):
    folder.mkdir(parents=True)
    (folder / "configuration.json").write_text(text)
    with pytest.raises(UserError, match=r"configuration\.json: "):
        open_again(folder)


def test_a_folder_that_was_killed_while_it_was_made_is_used(folder):
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    (folder / "configuration.json.partial").write_text('{"se')
    open_again(folder)
    assert set(contents(folder)) == {".lock", "configuration.json"}


HOLD = """
import sys
from nemojax.io import workdir
held = workdir.Workdir(sys.argv[1], {"seed": 1})
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(folder):
    """Another process that has the folder open."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["", *sys.path])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_in_use_by_another_process_is_refused(folder, holder):
    before = contents(folder)
    with pytest.raises(WorkdirError, match="in use by another process"):
        open_again(folder, {"seed": 1})
    assert contents(folder) == before
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    open_again(folder, {"seed": 1})  # a lock dies with its process


def test_a_folder_in_use_by_this_process_is_refused(folder):
    held = Workdir(folder, CONFIGURATION)
    with pytest.raises(WorkdirError, match="in use"):
        open_again(folder)
    held.close()
    open_again(folder)


@pytest.fixture
def run(folder):
    found = Workdir(folder, CONFIGURATION)
    yield found
    found.close()


def test_a_stage_gives_its_result_and_its_files(run):
    def work(directory):
        (directory / "weights").write_text("w")
        return {"loss": 0.5, "shape": (1, 2)}

    output = run.stage("sft", work)
    assert output.name == "sft"
    assert output.directory == run.path / "sft"
    assert output.result == {"loss": 0.5, "shape": [1, 2]}
    assert contents(output.directory).keys() == {"weights", "result.json"}


def test_a_finished_stage_is_read_and_not_run_again(run):
    first = run.stage("sft", lambda directory: {"loss": 0.5})
    run.close()
    again = Workdir(run.path, CONFIGURATION)

    def never(directory):
        raise AssertionError("ran again")

    assert again.stage("sft", never) == first
    again.close()


def test_an_interrupted_stage_runs_again_and_finds_what_it_left(run):
    def fail(directory):
        (directory / "half").write_text("h")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.stage("sft", fail)
    assert not (run.path / "sft").exists()
    output = run.stage("sft", lambda directory: {"found": list(contents(directory))})
    assert "half" in output.result["found"]
    assert contents(output.directory).keys() == {"half", "result.json"}


def test_a_result_that_is_no_json_leaves_the_stage_unfinished(run):
    with pytest.raises(TypeError):
        run.stage("sft", lambda directory: {"path": directory})
    assert not (run.path / "sft").exists()
    assert run.stage("sft", lambda directory: {"ok": 1}).result == {"ok": 1}


def test_the_seconds_of_all_attempts_are_summed(run, monkeypatch):
    clock = iter([100.0, 107.5, 200.0, 202.25])
    monkeypatch.setattr(workdir.time, "monotonic", lambda: next(clock))

    def fail(directory):
        raise ValueError

    with pytest.raises(ValueError):
        run.stage("sft", fail)
    assert run.stage("sft", lambda directory: {}).seconds == 9.75


def test_the_seconds_are_wall_clock_time(run):
    def work(directory):
        time.sleep(0.05)
        return {}

    assert 0.04 < run.stage("sft", work).seconds < 5


def test_a_json_file_is_never_half_written(tmp_path, monkeypatch):
    """The new text comes by a rename: killed before it, the old file stands."""
    path = tmp_path / "result.json"
    folders.write_json(path, {"a": 1})

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(folders.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        folders.write_json(path, {"a": 2})
    assert folders.read_json(path) == {"a": 1}

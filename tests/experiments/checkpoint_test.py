"""The command tells whole checkpoints from damaged ones, and equal from different."""

import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from nemojax.errors import UserError
from nemojax.training import checkpoints
from tests import scripts


def state(step):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    return {
        "params": {"up": jnp.asarray(values).at[1, 2].add(step)},
        "step": jnp.int32(step),
    }


@pytest.fixture
def run_folder(tmp_path):
    """A run with steps 3 and 6."""
    saved = checkpoints.Checkpoints(tmp_path / "checkpoints")
    for step in (3, 6):
        saved.save(step, state(step))
    saved.close()
    return tmp_path


def called(capsys, *arguments):
    """(exit status, lines)."""
    checkpoint = scripts.load("experiments.checkpoint")
    rest = flags.FLAGS(["checkpoint", *map(str, arguments)])[1:]
    status = checkpoint.run(rest)
    return status, capsys.readouterr().out.splitlines()


def test_whole_checkpoints_are_listed_and_verified(run_folder, capsys):
    for path in (run_folder, run_folder / "checkpoints"):
        status, lines = called(capsys, "list", path)
        assert status == 0 and [line.split()[0] for line in lines[1:]] == ["3", "6"]
    status, lines = called(capsys, "verify", run_folder)
    assert status == 0 and lines[-1].startswith("2 of 2 checkpoints are whole")
    status, lines = called(capsys, "verify", run_folder / "checkpoints" / "6")
    assert status == 0 and lines[-1].startswith("1 of 1")


def test_a_damaged_file_is_named(run_folder, capsys):
    folder = run_folder / "checkpoints" / "6"
    file = next((folder / "default" / "ocdbt.process_0" / "d").iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    status, lines = called(capsys, "verify", run_folder)
    assert status == 1
    assert "2/2 step 6: damaged" in lines
    name = file.relative_to(folder)
    assert any(line.startswith(f"  {folder}: {name}: has ") for line in lines)
    assert lines[-1].startswith("1 of 2 checkpoints are whole")


def test_what_was_not_saved_or_put_aside_is_told(run_folder, capsys):
    folder = run_folder / "checkpoints"
    shutil.copytree(folder / "6", folder / "9.orbax-checkpoint-tmp")
    (folder / "9.orbax-checkpoint-tmp" / "manifest.0.json").unlink()
    shutil.copytree(folder / "6", folder / "damaged" / "6")
    _, lines = called(capsys, "list", run_folder)
    assert [line.split()[0] for line in lines[1:]] == ["3", "6", "6", "9"]
    assert "damaged, put aside" in lines[3] and "not to its end" in lines[4]
    status, lines = called(capsys, "verify", run_folder)
    assert status == 1 and lines[-1].startswith("2 of 3 checkpoints are whole")


def test_different_arrays_are_named(run_folder, capsys):
    folder = run_folder / "checkpoints"
    status, lines = called(capsys, "diff", folder / "3", folder / "6")
    assert (status, lines) == (
        1,
        [
            "params/up: 1 of 6 differ, by up to 3",
            "step: 1 of 1 differ, by up to 3",
            "2 arrays differ",
        ],
    )
    status, lines = called(capsys, "diff", folder / "3", folder / "3")
    assert (status, lines) == (0, ["equal, bit by bit"])
    checkpoints.save_params(run_folder / "params", {"up": jnp.zeros(3)})
    status, lines = called(capsys, "diff", run_folder / "params", folder / "3")
    assert status == 1 and lines[-1] == "3 arrays differ"
    assert lines[-2] == f"up: only in {run_folder / 'params'}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "'' is none of list, verify, diff"),
        (["show", "x"], "'show' is none of list, verify, diff"),
        (["diff", "x"], "diff takes 2 folders"),
        (["list", "{tmp}"], "no checkpoints: give the folder of a run or of a step"),
        (["diff", "{tmp}", "{tmp}"], "no checkpoint"),
    ],
)
def test_what_it_cannot_do_is_said(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        scripts.load("experiments.checkpoint").run(
            [text.format(tmp=tmp_path) for text in arguments]
        )


def test_as_a_program(run_folder):
    command = [sys.executable, "-m", "experiments.checkpoint", "verify"]
    for path, status in ((run_folder, 0), (run_folder / "nowhere", 2)):
        done = subprocess.run(
            [*command, str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        assert len((done.stdout + done.stderr).splitlines()) == (1 if status else 3)

"""No damage to a checkpoint passes for a state, or ends a run that has another one."""

import errno
import os
import pathlib
import shutil
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.io import manifest
from nemojax.parallel import fingerprint
from nemojax.training import checkpoints


def state(step):
    rng = np.random.default_rng(step)
    return {
        "up": jnp.asarray(rng.normal(size=(40, 50)), jnp.float32),
        "norm": jnp.asarray(rng.normal(size=7), jnp.bfloat16),
        "step": jnp.int32(step),
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with whole steps 3 and 6."""
    folder = tmp_path_factory.mktemp("saved")
    run = checkpoints.Checkpoints(folder)
    for step in (3, 6):
        run.save(step, state(step))
    run.close()
    return folder


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def truncate(path, rng):
    path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size)])


def delete(path, rng):
    del rng
    path.unlink()


def damaged(folder, rng):
    """Does one of these to one file of a step; returns its path in the step."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if path.stat().st_size]
    path = files[rng.integers(len(files))]
    (flip, truncate, delete)[rng.integers(3)](path, rng)
    return path.relative_to(folder).as_posix()


def test_a_whole_step_has_no_problems(saved):
    assert manifest.problems(saved / "6") == []


@pytest.mark.parametrize("seed", range(150))
def test_every_damage_is_found_and_the_file_named(saved, tmp_path, seed):
    """Flipped bits, truncated and deleted files, those of the checksums included."""
    folder = tmp_path / "6"
    shutil.copytree(saved / "6", folder)
    name = damaged(folder, np.random.default_rng(seed))
    found = manifest.problems(folder)
    assert len(found) == 1 or name.startswith("manifest")
    if manifest.parts(folder):  # without any it is no saved step
        assert any(problem.startswith(f"{name}: ") for problem in found)


@pytest.mark.parametrize("seed", range(4))
def test_a_run_falls_back_to_the_step_before(saved, tmp_path, capsys, seed):
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    name = damaged(folder / "6" / "default", np.random.default_rng(seed))
    run = checkpoints.Checkpoints(folder)
    found = run.restore(state(0))
    assert fingerprint.parameters_sha256(found) == fingerprint.parameters_sha256(
        state(3)
    )
    assert run.steps() == [3]
    run.save(6, state(6))  # training comes to that step again
    run.close()
    message = capsys.readouterr().err
    assert f"checkpoint 6 is damaged: {folder}/6/default/{name}: " in message
    assert (folder / "damaged" / "6").is_dir()
    assert manifest.problems(folder / "6") == []


def test_without_a_whole_step_there_is_no_state(saved, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    for step in ("3", "6"):
        damaged(folder / step / "default", np.random.default_rng(0))
    run = checkpoints.Checkpoints(folder)
    assert run.restore(state(0)) is None
    run.close()
    assert sorted(p.name for p in (folder / "damaged").iterdir()) == ["3", "6"]


def test_shares_of_several_processes_make_a_whole(saved, tmp_path):
    folder = tmp_path / "6"
    shutil.copytree(saved / "6", folder)
    manifest.remove(folder)
    for part in (2, 0):
        manifest.write(folder, part, 3)
    assert manifest.problems(folder) == ["manifest.1.json: is missing"]
    manifest.write(folder, 1, 3)
    assert manifest.problems(folder) == []
    name = damaged(folder / "default", np.random.default_rng(1))
    found = [manifest.problems(folder, part, 2) for part in (0, 1)]
    assert sorted(map(len, found)) == [0, 1]
    assert f"default/{name}" in str(found)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(["mount", *options], check=False).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: pathlib.Path, free: int) -> pathlib.Path:
    """Leaves so many bytes on the disk of a folder."""
    filler = folder / "filler"
    size = shutil.disk_usage(folder).free - free
    filler.write_bytes(bytes(size))
    return filler


def large(step):
    rng = np.random.default_rng(step)
    return {"w": jnp.asarray(rng.normal(size=(200, 1000)), jnp.float32)}


def test_a_disk_that_is_too_small_is_told_before_a_save(small_disk):
    run = checkpoints.Checkpoints(small_disk / "run")
    run.save(1, large(1))
    run.restore(large(0))
    fill(small_disk, 500_000)
    with pytest.raises(OSError, match="checkpoint 2 needs") as error:
        run.save(2, large(2))
    assert error.value.errno == errno.ENOSPC
    assert run.steps() == [1]
    run.close()


def test_a_disk_that_fills_during_a_save_leaves_the_step_before(
    small_disk, monkeypatch
):
    """And frees what the failed save took."""
    monkeypatch.setattr(checkpoints, "_ROOM", 0.0)  # the space went after the look
    run = checkpoints.Checkpoints(small_disk / "run")
    run.save(1, large(1))
    assert run.steps() == [1]
    filler = fill(small_disk, 500_000)
    run.save(2, large(2))
    with pytest.raises(Exception, match=r"No space left|RESOURCE_EXHAUSTED"):
        run.close()
    assert shutil.disk_usage(small_disk).free > 400_000
    filler.unlink()
    again = checkpoints.Checkpoints(small_disk / "run")
    assert again.steps() == [1]
    np.testing.assert_array_equal(again.restore(large(0))["w"], large(1)["w"])
    again.save(2, large(2))
    assert again.steps() == [1, 2]
    again.close()

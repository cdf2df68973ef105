"""Files and folders that are there whole or not at all."""

import os
import signal
import subprocess
import sys

import pytest

from nemojax.io import folders

WRITER = """
import sys, time
from nemojax.io import folders
with folders.replacing(sys.argv[1]) as stream:
    stream.write(b"new, but not all of it")
    stream.flush()
    print("begun", flush=True)
    time.sleep(60)
"""


def test_a_file_is_replaced_by_all_of_the_new_one(tmp_path):
    path = tmp_path / "a.txt"
    folders.write_file(path, "old")
    with folders.replacing(path) as stream:
        stream.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    folders.write_file(path, "für alle")
    assert path.read_bytes() == "für alle".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_after_an_error_the_old_file_is_there(tmp_path):
    path = tmp_path / "a.txt"
    folders.write_file(path, "old")
    with pytest.raises(RuntimeError), folders.replacing(path) as stream:
        stream.write(b"new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_after_a_kill_the_old_file_is_there(tmp_path):
    path = tmp_path / "a.txt"
    folders.write_file(path, "old")
    command = [sys.executable, "-c", WRITER, str(path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert path.read_text() == "old"
    folders.write_file(path, "newer")
    assert path.read_text() == "newer"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_appears_when_all_of_it_is_written(tmp_path):
    path = tmp_path / "made"
    with pytest.raises(RuntimeError), folders.appearing(path) as partial:
        (partial / "a").touch()
        raise RuntimeError
    assert not path.exists()
    with folders.appearing(path) as partial:
        (partial / "b").touch()
        assert not path.exists()
    assert os.listdir(path) == ["b"]
    with pytest.raises(ValueError, match="exists and is not empty"):
        folders.require_free(path)

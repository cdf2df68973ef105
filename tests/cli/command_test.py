"""Commands end with one line and the right status, whatever went wrong."""

import contextlib
import errno
import gc
import logging
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from nemojax.cli import command
from nemojax.errors import UserError
from nemojax.io import workdir as workdirs
from nemojax.io.files import DataError
from nemojax.io.workdir import WorkdirError
from nemojax.training.stopping import Diverged, Stopped


def raises(error: BaseException, stage: str | None = None):
    def run() -> int:
        if stage is None:
            raise error
        with workdirs.in_stage(stage):
            raise error

    return run


def test_status_of_the_command_is_passed_on(capsys):
    assert command.main(lambda: 0) == 0
    assert command.main(lambda: 7) == 7
    assert capsys.readouterr().err == ""


def test_what_is_logged_is_printed_once_as_it_is(capsys):
    def run() -> int:
        logging.getLogger("nemojax.models.attention_kernels").info("attention: blocks")
        return 0

    assert command.main(run) == 0
    assert capsys.readouterr().err == "attention: blocks\n"
    assert not logging.getLogger("nemojax").handlers


@pytest.fixture
def listening():
    """A shell's background jobs are started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
def test_interruption_lost_in_a_callback_of_the_collector_comes_again(capsys):
    calls = []

    def interrupted(phase, info):
        calls.append(phase)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)

    def run() -> int:
        gc.callbacks.append(interrupted)
        gc.collect()  # swallows the first
        time.sleep(10)
        return 0

    try:
        status = command.main(run)
    finally:
        gc.callbacks.remove(interrupted)
    assert calls
    assert status == command.INTERRUPTED
    assert capsys.readouterr().err.startswith("interrupted")


def test_training_that_does_not_get_on_is_told_in_one_line(capsys):
    error = Diverged("step 4 was not applied")
    assert command.main(raises(error)) == command.DIVERGED
    assert capsys.readouterr().err == f"{error}\n"


@pytest.mark.parametrize("interrupted", [False, True])
def test_training_that_was_stopped_names_the_command(capsys, monkeypatch, interrupted):
    """After Ctrl-C a script that called it must not go on: that is no success."""
    monkeypatch.setattr(sys, "argv", ["sft", "--out=two  words"])
    error = Stopped("stopped at 3")
    error.interrupted = interrupted
    assert command.main(raises(error)) == (130 if interrupted else 0)
    message = capsys.readouterr().err
    assert re.fullmatch(r"stopped at 3: python .*'--out=two  words'\n", message)


@pytest.mark.parametrize(
    "error",
    [UserError("no"), DataError("x.jsonl: broken"), WorkdirError("busy")],
)
def test_bad_input_is_said_in_one_line(error, capsys):
    assert command.main(raises(error)) == command.BAD_INPUT
    assert capsys.readouterr().err == f"{error}\n"


def test_message_over_several_lines_becomes_one(capsys):
    command.main(raises(DataError("a:\n  b\n")))
    assert capsys.readouterr().err == "a: b\n"


def test_interruption_names_the_stage_and_how_to_go_on(capsys):
    status = command.main(raises(KeyboardInterrupt(), "pretrain"))
    assert status == 130
    assert capsys.readouterr().err.startswith(
        "interrupted in stage pretrain: run the same command again to continue"
    )


def test_innermost_stage_is_named(capsys):
    def run() -> int:
        with workdirs.in_stage("outer"), workdirs.in_stage("inner"):
            raise KeyboardInterrupt

    command.main(run)
    assert "in stage inner:" in capsys.readouterr().err


@pytest.mark.parametrize("wait", [0.1, 0.6, 1.2, 1.8])
def test_ctrl_c_before_the_command_has_begun_leaves_no_traceback(wait):
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.sft", "--model=none"],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["", *sys.path])},
        stderr=subprocess.PIPE,
        text=True,
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(wait)
    process.send_signal(signal.SIGINT)
    assert "Traceback" not in process.communicate(timeout=60)[1]


@pytest.mark.parametrize("arguments", [["--help"], ["--model=llama31_8b", "--json=-"]])
def test_an_output_that_nobody_reads_ends_the_command_in_silence(arguments):
    read, write = os.pipe()
    os.close(read)
    found = subprocess.run(
        [sys.executable, "-m", "experiments.plan", *arguments],
        stdout=write,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["", *sys.path])},
        text=True,
        check=False,
    )
    os.close(write)
    assert found.returncode == command.UNREAD
    assert "Error" not in found.stderr and "Exception" not in found.stderr


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def wrapped(error: Exception) -> Exception:
    outer = RuntimeError("cannot save")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    "error",
    [
        full_disk(),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        ValueError("write failed [OS error 28: No space left on device]"),
        wrapped(full_disk()),
    ],
)
def test_full_disk_is_recognised_also_behind_other_errors(error, capsys):
    assert command.main(raises(error, "sft")) == command.BAD_INPUT
    assert capsys.readouterr().err == (
        "no space left on the disk in stage sft: free some, then run the same command "
        "again to continue\n"
    )


def test_other_errors_of_the_system_name_the_file(tmp_path, capsys):
    missing = tmp_path / "missing" / "x"
    assert command.main(lambda: missing.write_text("")) == command.BAD_INPUT
    line = capsys.readouterr().err
    assert line.startswith(f"{missing}: No such file or directory")
    assert line.count("\n") == 1


def test_too_small_a_disk_is_told_before_the_work(tmp_path):
    workdirs.require_space(tmp_path, 1)
    with pytest.raises(WorkdirError, match=r"000\.0 MB are needed, the disk has"):
        workdirs.require_space(tmp_path, 10**18)


def test_errors_of_library_threads_are_not_printed(capsys):
    """The hook prints what no thread's owner catches; it comes back afterwards."""

    def run() -> int:
        try:
            raise RuntimeError("Event loop is closed")
        except RuntimeError as error:
            sys.excepthook(type(error), error, error.__traceback__)
        logging.getLogger("absl").error("Failed to write")
        return 0

    before = sys.excepthook
    assert command.main(run) == 0
    assert capsys.readouterr().err == ""
    assert sys.excepthook is before


INTERRUPTED = """
import sys, threading
from nemojax.cli import command

def late():
    threading.main_thread().join()
    raise RuntimeError("cannot schedule new futures after shutdown")

def run():
    threading.Thread(target=late).start()
    raise KeyboardInterrupt

command.start(run)
"""


def test_threads_that_an_interruption_cuts_short_say_nothing_after_its_line():
    found = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True
    )
    assert found.returncode == command.INTERRUPTED
    (line,) = found.stderr.splitlines()
    assert line.startswith("interrupted: run the same command again")


@pytest.mark.parametrize("error", [ValueError("of jax"), ZeroDivisionError("own")])
def test_mistakes_that_are_not_the_users_keep_their_traceback(error):
    with pytest.raises(type(error)) as raised:
        command.main(raises(error))
    assert raised.value is error


def test_module_does_not_load_jax():
    code = "import sys, nemojax.cli.command; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

"""Frame of every command: its devices, and how it ends.

A command that cannot go on says why in one line on stderr and what to do, without a
traceback; a traceback is for our own mistakes. This module does not import jax, so
that the devices can still be chosen.
"""

import contextlib
import errno
import functools
import json
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from absl import app, flags

from nemojax.cli import command_line, device_errors, host
from nemojax.errors import UserError
from nemojax.io import folders
from nemojax.training.stopping import Diverged, Stopped

SUCCESS = 0
TOO_LARGE = 1  # for the memory of the devices
BAD_INPUT = 2
DIVERGED = 3
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
UNREAD = 141  # 128 + SIGPIPE: whoever read the output has ended, as `head` does

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_DISK_FULL_TEXT = tuple(os.strerror(number) for number in _DISK_FULL)


def start(
    run: Callable[..., int], arguments: bool = False, *, unfit: bool = False
) -> NoReturn:
    """Runs a script: reads its command line, then does `main`; never returns.

    Args:
      run: the command, see `main`; its module's docstring stands above the help.
      arguments: whether it takes anything but flags; `run` is called with it.
      unfit: whether it also runs where jax cannot find a GPU that is there.
    """
    doc = sys.modules["__main__"].__doc__ or ""

    def parse(argv: list[str]) -> list[str]:
        try:
            return command_line.parse(argv, doc, arguments)
        except UserError as error:
            _say(str(error))
            sys.exit(BAD_INPUT)
        except BrokenPipeError:
            sys.exit(_unread())

    def with_flags(argv: list[str]) -> None:
        what = functools.partial(run, argv[1:]) if arguments else run
        status = main(what, unfit=unfit)
        if status == INTERRUPTED:
            _say_no_more()
        sys.exit(status)

    app.run(with_flags, flags_parser=parse)


def main(run: Callable[[], int], *, unfit: bool = False) -> int:
    """Runs a command; returns its exit status.

    0 is success, or that training was told to stop and has saved; 1 that the memory of
    the devices is too small; 2 something that the user can mend (data, work folder,
    disk, packages of other versions), 3 that training does not get on (step after
    step is not finite), 130 an interruption, also where training has saved, 141 that
    nobody reads the output any more. Any other error is a mistake of this project and
    is not caught.

    Args:
      run: the command; returns the exit status. It should not start jax's devices
        before it is called, since their number is set here.
      unfit: whether it also runs where jax cannot find a GPU that is there.
    """
    host.prepare()
    _hear_interruptions()
    try:
        with _shown_notes(), _quiet_libraries(), _repeated_interruptions():
            if not unfit:
                device_errors.refuse_unfit()
            return run()
    except Stopped as error:
        _say(str(error), _this_command())
        return INTERRUPTED if error.interrupted else SUCCESS
    except Diverged as error:
        _say(str(error))
        return DIVERGED
    except UserError as error:
        message = str(error)
    except KeyboardInterrupt as error:
        _say(
            f"interrupted{_where(error)}: run the same command again to continue from "
            "what it has saved",
            _this_command(),
        )
        return INTERRUPTED
    except BrokenPipeError:
        return _unread()
    except Exception as error:
        if too_large := device_errors.no_memory(error):
            _say(too_large)
            return TOO_LARGE
        message = _explanation(error)
        if message is None:
            raise
    _say(message)
    return BAD_INPUT


def define_json() -> None:
    """Defines the flag of a script's result for programs; `print_result` writes it."""
    flags.DEFINE_string("json", None, "also write the result there as JSON; -: stdout")


def say(text: str, to: str | None) -> None:
    """Prints text for people; to stderr where JSON is wanted on stdout."""
    print(text, file=sys.stderr if to == "-" else sys.stdout, flush=True)


def print_result(result: Any, text: str, to: str | None) -> None:
    """Prints the text, and writes the result as JSON where it is wanted.

    Args:
      result: result for programs.
      text: result for people.
      to: a file; "-" for stdout, and then the text goes to stderr; None: nowhere.
    """
    say(text, to)
    write_json(result, to)


def write_json(result: Any, to: str | None) -> None:
    """Writes a result to a file; "-": to stdout; None: nowhere."""
    if to == "-":
        print(json.dumps(result), flush=True)
    elif to:
        folders.write_json(to, result)


def _hear_interruptions() -> None:
    """Raises KeyboardInterrupt at Ctrl-C from now on, which imports did without."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def _shown_notes() -> Iterator[None]:
    """Prints what this project logs, such as which attention runs, on stderr."""
    logger, handler = logging.getLogger("nemojax"), logging.StreamHandler()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # other handlers would print it again
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keeps libraries from printing tracebacks of their threads.

    When a checkpoint cannot be written its threads print many, and then the same
    error is raised to us. Nor do users need to know which backends jax did not find.
    """
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    logger, hook = logging.getLogger("absl"), sys.excepthook
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    sys.excepthook = lambda *error: None
    try:
        with device_errors.refused_fallback():
            yield
    finally:
        logger.setLevel(level)
        sys.excepthook = hook


@contextlib.contextmanager
def _repeated_interruptions(wait: float = 0.05) -> Iterator[None]:
    """Interrupts again where an interruption was lost.

    Python drops an exception that is raised in a callback of the garbage collector,
    and jax has one there: the command would simply go on.

    Args:
      wait: seconds until the next attempt, so that the callback has ended.
    """
    hook = sys.unraisablehook

    def lost(error: "sys.UnraisableHookArgs") -> None:
        if issubclass(error.exc_type, KeyboardInterrupt):
            # A real signal to the main thread: it also wakes it from a system call.
            to = (threading.main_thread().ident, signal.SIGINT)
            threading.Timer(wait, signal.pthread_kill, to).start()
        else:
            hook(error)

    sys.unraisablehook = lost
    try:
        yield
    finally:
        sys.unraisablehook = hook


def _say_no_more() -> None:
    """Keeps threads that this process's end cuts short from saying so."""
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _unread() -> int:
    """Gives up the output, which Python would write out once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return UNREAD


def _explanation(error: Exception) -> str | None:
    """Returns one line for an error of the system or its devices, None for others."""
    if _disk_is_full(error):
        return (
            f"no space left on the disk{_where(error)}: free some, then run the same "
            "command again to continue"
        )
    if isinstance(error, OSError):
        name = error.filename if error.filename is not None else "input or output"
        reason = error.strerror or str(error) or type(error).__name__
        return f"{name}: {reason}{_where(error)}: check the path and its permissions"
    return device_errors.no_devices(error) or None


def _disk_is_full(error: BaseException | None) -> bool:
    """Returns whether this error, or one that caused it, is that a disk is full.

    Checkpoints are written by a library that hands on only the text of the error.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return True
        if any(text in str(error) for text in _DISK_FULL_TEXT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _where(error: BaseException) -> str:
    notes = getattr(error, "__notes__", ())
    return f" {notes[0]}" if notes else ""


def _this_command() -> str:
    """Returns the command line, as a shell takes it."""
    spec = sys.modules["__main__"].__spec__
    program = [sys.argv[0]] if spec is None else ["-m", spec.name]
    return shlex.join(["python", *program, *sys.argv[1:]])


def _say(message: str, command: str = "") -> None:
    """Prints one line on stderr, in the place of a progress line."""
    clear = "\r\x1b[2K" if sys.stderr.isatty() else ""
    after = f": {command}" if command else ""
    print(clear + " ".join(message.split()) + after, file=sys.stderr)

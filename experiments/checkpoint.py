"""What lies in a run's checkpoints.

    python -m experiments.checkpoint list RUN
    python -m experiments.checkpoint verify RUN
    python -m experiments.checkpoint diff STEP STEP

RUN is the work folder of a training stage, its `checkpoints` folder, or one step in
that. `list` shows steps, sizes and times; `verify` hashes every file and compares with
what was written when it was saved; `diff` compares two steps, or two folders of
parameters, array by array.

Exit status 0: whole, or equal; 1: damaged, or different, with the files or the arrays;
2: there is nothing of the kind.
"""

import functools
import pathlib
import sys
import time

from absl import app

from nemojax.cli import command
from nemojax.io.files import DataError
from nemojax.training import inspection, manifest

DIFFERENT = 1
_MOST = 20  # arrays that are shown


def list_steps(path: pathlib.Path) -> int:
    """Prints a table of steps."""
    steps = inspection.steps(path)
    print(f"{'step':>10}{'GB':>9}{'files':>7}  saved")
    for saved in steps:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(saved.saved_at))
        if not saved.saved_at:
            when = "not to its end: no checksums"
        if saved.put_aside:
            when = f"damaged, put aside: {saved.path}"
        print(f"{saved.step:>10}{saved.bytes / 1e9:>9.3f}{saved.files:>7}  {when}")
    return command.SUCCESS


def verify(path: pathlib.Path) -> int:
    """Hashes every file of every step that is in use."""
    damaged = 0
    steps = [saved for saved in inspection.steps(path) if not saved.put_aside]
    for number, saved in enumerate(steps, 1):
        problems = manifest.problems(saved.path)
        if not saved.saved_at:
            problems = ["it was not saved to its end: no checksums"]
        damaged += bool(problems)
        state = "damaged" if problems else f"whole, {saved.files} files"
        print(f"{number}/{len(steps)} step {saved.step}: {state}", flush=True)
        for problem in problems:
            print(f"  {saved.path}: {problem}")
    print(f"{len(steps) - damaged} of {len(steps)} checkpoints are whole: {path}")
    return DIFFERENT if damaged else command.SUCCESS


def diff(one: pathlib.Path, other: pathlib.Path) -> int:
    """Prints in which arrays two states differ."""
    found = inspection.differences(one, other)
    for name, difference in list(found.items())[:_MOST]:
        print(f"{name}: {difference}")
    if len(found) > _MOST:
        print(f"... and {len(found) - _MOST} more")
    print(f"{len(found)} arrays differ" if found else "equal, bit by bit")
    return DIFFERENT if found else command.SUCCESS


COMMANDS = {"list": (list_steps, 1), "verify": (verify, 1), "diff": (diff, 2)}


def run(arguments: list[str]) -> int:
    """Runs what the arguments name."""
    name, *paths = arguments or [""]
    if name not in COMMANDS:
        raise DataError(f"{name!r} is none of {', '.join(COMMANDS)}: see --help")
    function, count = COMMANDS[name]
    if len(paths) != count:
        raise DataError(f"{name} takes {count} folder{'s' * (count > 1)}: see --help")
    try:
        return function(*map(pathlib.Path, paths))
    except ValueError as error:
        raise DataError(str(error)) from error


def main(argv: list[str]) -> None:
    sys.exit(command.main(functools.partial(run, argv[1:])))


if __name__ == "__main__":
    app.run(main)

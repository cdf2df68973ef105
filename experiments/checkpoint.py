"""Contents of a run's checkpoints.

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

import pathlib
import time

from absl import flags

from nemojax.cli import command
from nemojax.errors import UserError
from nemojax.io import manifest
from nemojax.training import inspection

FLAGS = flags.FLAGS
command.define_json()
DIFFERENT = 1
_MOST = 20  # arrays that are shown


def list_steps(path: pathlib.Path) -> int:
    """Prints a table of steps."""
    steps = inspection.steps(path)
    lines = [f"{'step':>10}{'GB':>9}{'files':>7}  saved"]
    for saved in steps:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(saved.saved_at))
        if not saved.saved_at:
            when = "not to its end: no checksums"
        if saved.put_aside:
            when = f"damaged, put aside: {saved.path}"
        size = f"{saved.bytes / 1e9:>9.3f}{saved.files:>7}"
        lines.append(f"{saved.step:>10}{size}  {when}")
    found = [{**vars(saved), "path": str(saved.path)} for saved in steps]
    command.print_result({"steps": found}, "\n".join(lines), FLAGS.json)
    return command.SUCCESS


def verify(path: pathlib.Path) -> int:
    """Hashes every file of every step that is in use."""
    damaged: dict[str, list[str]] = {}
    steps = [saved for saved in inspection.steps(path) if not saved.put_aside]
    for number, saved in enumerate(steps, 1):
        problems = manifest.problems(saved.path)
        if not saved.saved_at:
            problems = ["it was not saved to its end: no checksums"]
        if problems:
            damaged[str(saved.path)] = problems
        state = "damaged" if problems else f"whole, {saved.files} files"
        command.say(f"{number}/{len(steps)} step {saved.step}: {state}", FLAGS.json)
        for problem in problems:
            command.say(f"  {saved.path}: {problem}", FLAGS.json)
    whole = len(steps) - len(damaged)
    text = f"{whole} of {len(steps)} checkpoints are whole: {path}"
    command.print_result({"steps": len(steps), "damaged": damaged}, text, FLAGS.json)
    return DIFFERENT if damaged else command.SUCCESS


def diff(one: pathlib.Path, other: pathlib.Path) -> int:
    """Prints in which arrays two states differ."""
    found = inspection.differences(one, other)
    lines = [f"{name}: {what}" for name, what in list(found.items())[:_MOST]]
    if len(found) > _MOST:
        lines.append(f"... and {len(found) - _MOST} more")
    lines.append(f"{len(found)} arrays differ" if found else "equal, bit by bit")
    command.print_result({"differences": found}, "\n".join(lines), FLAGS.json)
    return DIFFERENT if found else command.SUCCESS


COMMANDS = {"list": (list_steps, 1), "verify": (verify, 1), "diff": (diff, 2)}


def run(arguments: list[str]) -> int:
    """Runs what the arguments name."""
    name, *paths = arguments or [""]
    if name not in COMMANDS:
        raise UserError(f"{name!r} is none of {', '.join(COMMANDS)}: see --help")
    function, count = COMMANDS[name]
    if len(paths) != count:
        raise UserError(f"{name} takes {count} folder{'s' * (count > 1)}: see --help")
    return function(*map(pathlib.Path, paths))


if __name__ == "__main__":
    command.start(run, arguments=True)

"""What one GPU does: one table a part, and a JSON file after each row.

    python -m benchmarks.gpu --json=gpu.json
    python -m benchmarks.gpu --small                  on a CPU, toy sizes
    python -m benchmarks.gpu --parts=layers,planner --limit=layers=200

Each part is a process of its own with a time limit, so that a crash, a lack of memory
or a hang costs only itself, and what it had measured before stays.
`docs/benchmarks.md` says what each part measures and what has to be installed.
"""

import signal
import sys
import time
from pathlib import Path

from absl import app, flags

from benchmarks.gpu import driver

FLAGS = flags.FLAGS
flags.DEFINE_list("parts", list(driver.LIMITS), "what is measured, in this order")
flags.DEFINE_multi_string("limit", [], "PART=SECONDS, in the place of its own limit")
flags.DEFINE_float("minutes", 8.0, "for all parts together")
flags.DEFINE_bool("small", False, "toy sizes, which a CPU runs too")
flags.DEFINE_string("json", "gpu.json", "file of all rows, written anew after each")
flags.DEFINE_string(
    "measured", None, "file of an earlier run, for parts that compare with others"
)


def _limits() -> dict[str, float]:
    """Returns the seconds of each part that is wanted.

    Raises:
      app.UsageError: a part that there is not, or a limit that is no number.
    """
    own = dict.fromkeys(FLAGS.parts, "") | dict(
        text.partition("=")[::2] for text in FLAGS.limit
    )
    for name, seconds in own.items():
        if name not in driver.LIMITS:
            raise app.UsageError(f"no part {name!r}: one of {', '.join(driver.LIMITS)}")
        if seconds and not seconds.replace(".", "", 1).isdecimal():
            raise app.UsageError(f"--limit={name}={seconds}: give a number of seconds")
    return {name: float(own[name] or driver.LIMITS[name]) for name in FLAGS.parts}


def main(argv: list[str]) -> None:
    """Runs the parts one after the other."""
    del argv
    # A killed run takes the process that holds the GPU with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    run = driver.Run(Path(FLAGS.json), FLAGS.small, FLAGS.measured)
    end = time.monotonic() + 60 * FLAGS.minutes
    for name, limit in _limits().items():
        run.part(name, min(limit, end - time.monotonic()))
        print(run.table(name), flush=True)


if __name__ == "__main__":
    app.run(main)

"""EleutherAI's lm-evaluation-harness with the model "nemojax".

    python -m experiments.lm_eval run --model nemojax \\
        --model_args checkpoint=models/mine,max_length=2048 --tasks TASK --batch_size 16

All arguments are the harness's own (`--help`). `checkpoint` is a model folder or a
Hugging Face checkpoint; `nemojax/evals/harness.py` lists the other model arguments.
Installed, it is the command `nemojax-lm-eval`. Needs the extra `eval`. Prints the
harness's table; exit status as the harness's.
"""

import sys

from nemojax.cli import command


def run() -> int:
    """Runs the harness."""
    from nemojax.evals import harness  # jax, whose devices are chosen by now

    harness.main()
    return command.SUCCESS


if __name__ == "__main__":
    sys.exit(command.main(run))

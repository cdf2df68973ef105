"""Reward models: regression on several attributes, or Bradley-Terry on pairs.

    python -m experiments.train_reward --model=BASE --data=helpsteer2/train.jsonl.gz \\
        --held_out=helpsteer2/validation.jsonl.gz --workdir=runs/reward
    python -m experiments.train_reward --objective=bradley_terry --model=BASE \\
        --data=pairs.jsonl --held_out_share=0.1 --workdir=runs/pairwise

The model is the trunk of BASE with a linear head in place of the LM head, read at the
token that ends a response. Regression takes labels from 0 to 4 of helpfulness,
correctness, coherence, complexity and verbosity; a label may be missing, so files that
label different attributes can be mixed. With --held_out the parameters with the lowest
loss there are kept (measured every --validate_every steps and at the end), and its
table has mean squared error, Pearson's correlation and the share of predictions within
1 of each attribute. Use --template=nemotron_reward for the system text of NVIDIA's.
Where pairs have margins (TRL) or strengths (HelpSteer2 and 3), --pairwise=margin wants
chosen to win by so much, and --pairwise=scaled lets a pair count so much.

Prints that table, the rows that were left out by reason, and where the model is. The
same command goes on after an interruption.
"""

import functools

from absl import flags

from nemojax.cli import alignment_flags as common
from nemojax.cli import command
from nemojax.data.batching import examples
from nemojax.data.records import ATTRIBUTES
from nemojax.errors import UserError
from nemojax.losses import PAIRWISE
from nemojax.recipe.align import run
from nemojax.recipe.align.settings import BRADLEY_TERRY, PRESETS, REGRESSION

FLAGS = flags.FLAGS
common.define(PRESETS["reward"])
flags.DEFINE_enum("objective", REGRESSION, [REGRESSION, BRADLEY_TERRY], "loss")
flags.DEFINE_enum("pairwise", "plain", PAIRWISE, "what margins of pairs are for")


def job() -> run.Job:
    """Makes the job that the flags describe.

    Raises:
      UserError: margins are wanted where there are no pairs.
    """
    pairs, margins = FLAGS.objective == BRADLEY_TERRY, FLAGS.pairwise != "plain"
    if margins and not pairs:
        raise UserError("--pairwise goes with --objective=bradley_terry")
    compared = functools.partial(examples.compared, needs_margin=margins)
    count = 1 if pairs else len(ATTRIBUTES)
    held_out = bool(FLAGS.held_out or FLAGS.held_out_share)
    how = common.settings(
        PRESETS["reward"],
        objective=FLAGS.objective,
        pairwise=FLAGS.pairwise,
        attributes=count,
        keep_best=held_out,
    )
    return run.Job(
        FLAGS.workdir,
        FLAGS.model,
        FLAGS.template,
        [("reward", how)],
        common.data(),
        compared if pairs else examples.labelled,
        values=count,
    )


if __name__ == "__main__":
    command.start(functools.partial(common.train, job))

"""Reward-aware preference optimisation (RPO), iterated.

    python -m experiments.rpo --model=runs/dpo/dpo/model --data=pairs.jsonl \\
        --workdir=runs/rpo --iterations=3 --preference.beta=1e-2

Pairs need the rewards of both responses: chosen_reward and rejected_reward in the file,
or --rewards=FOLDER, which experiments.score wrote for the same files. The gap of the
policy's implicit rewards is brought to --preference.eta times theirs, so that a
rejected response that is nearly as good is not unlearned. Each iteration begins with
the model of the one before, which is also its reference. --preference.distance is
"backward_kl" (the report's), "forward_kl" or "squared".

Prints for each iteration a table of the first and the last step and of --held_out
(implicit rewards with beta, their gap and its target, log-probs of both responses,
accuracy), the rows that were left out by reason, and where the model is; curve.png
shows the same over the steps. The same command goes on after an interruption.
"""

import functools

from absl import flags

from nemojax.cli import alignment_flags as common
from nemojax.cli import command
from nemojax.data.batching import examples
from nemojax.errors import UserError
from nemojax.recipe.align import run
from nemojax.recipe.align.settings import PRESETS

FLAGS = flags.FLAGS
common.define(PRESETS["rpo"])
flags.DEFINE_integer(
    "iterations", 3, "stages; each refers to the model of the one before", 1
)
flags.DEFINE_float(
    "default_chosen_reward", None, "reward of chosen in pairs without rewards"
)
flags.DEFINE_float(
    "default_rejected_reward", None, "reward of rejected in pairs without rewards"
)


def job() -> run.Job:
    """Makes the job that the flags describe.

    Raises:
      UserError: one default reward without the other.
    """
    default = FLAGS.default_chosen_reward, FLAGS.default_rejected_reward
    if (default[0] is None) != (default[1] is None):
        raise UserError(
            "say both --default_chosen_reward and --default_rejected_reward"
        )
    how = common.settings(PRESETS["rpo"])
    names = [f"rpo_{index + 1}" for index in range(FLAGS.iterations)]
    return run.Job(
        FLAGS.workdir,
        FLAGS.model,
        FLAGS.template,
        [(name, how) for name in names],
        common.data(rewards=FLAGS.rewards, reward_weights=FLAGS.reward_weights),
        functools.partial(
            examples.preferences,
            needs_rewards=True,
            default_rewards=None if default[0] is None else default,
            min_chosen_reward=FLAGS.min_chosen_reward,
        ),
        values=3,
        reference=FLAGS.reference,
    )


if __name__ == "__main__":
    command.start(functools.partial(common.train, job))

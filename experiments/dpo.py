"""Direct preference optimisation (DPO), with the report's SFT term on the chosen.

    python -m experiments.dpo --model=runs/general/sft/model --data=pairs.jsonl \\
        --workdir=runs/dpo --preference.beta=1e-3 --preference.sft_weight=1e-5

The reference is the model that the run begins with. Its log-probs are computed once
and kept in the work folder, so no second model is there while it trains;
--reference=in_step computes them with each step. --preference.label_smoothing is
conservative DPO. --preference.loss names another loss (ipo, simpo, orpo, apo_zero,
apo_down, dpo_norm, llama3_dpo), which comes with its published coefficients; simpo and
orpo have no reference. With --lora.rank=16 adapters are
trained and the model itself stays the reference. --min_chosen_reward leaves out pairs
whose chosen response has a lower reward.

Prints a table of the first and the last step and of --held_out (implicit rewards with
beta, log ratios without, log-probs of both responses, accuracy), the rows that were
left out by reason, and where the model is; curve.png shows the same over the steps.
The same command goes on after an interruption.
"""

import functools

from absl import flags

from nemojax.cli import alignment_flags as common
from nemojax.cli import command
from nemojax.data.batching import examples
from nemojax.recipe.align import run
from nemojax.recipe.align.settings import PRESETS

FLAGS = flags.FLAGS
common.define(PRESETS["dpo"])


def job() -> run.Job:
    """Makes the job that the flags describe."""
    how = common.settings(PRESETS["dpo"])
    return run.Job(
        FLAGS.workdir,
        FLAGS.model,
        FLAGS.template,
        [("dpo", how)],
        common.data(rewards=FLAGS.rewards, reward_weights=FLAGS.reward_weights),
        functools.partial(
            examples.preferences,
            needs_rewards=getattr(how.preference, "loss", "") == "rpo",
            min_chosen_reward=FLAGS.min_chosen_reward,
        ),
        values=3,
        reference=FLAGS.reference,
    )


if __name__ == "__main__":
    command.start(functools.partial(common.train, job))

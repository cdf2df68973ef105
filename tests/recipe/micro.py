"""The miniature recipe at a size of seconds; also a program, to be killed.

python -m tests.recipe.micro FOLDER
"""

import dataclasses
import sys

import jax

from nemojax.cli import command
from nemojax.io.workdir import Workdir
from nemojax.parallel import layout
from nemojax.parallel.layout import LayoutSpec
from nemojax.recipe.miniature import recipe as miniature
from nemojax.recipe.miniature import report as reporting
from nemojax.recipe.miniature.settings import MiniatureSettings
from nemojax.reporting import report as reports
from nemojax.training.stage import Options

SETTINGS = MiniatureSettings(
    seed=1,
    controls=True,
    pretrain_tokens=20_000,
    reward_prompts=40,
    policy_reward_prompts=20,
    reward_held_out=60,
    code_rows=60,
    general_rows=80,
    preference_prompts=24,
    rpo_rounds=1,
    eval_tasks=8,
)


def run(folder):
    """Runs or continues the recipe; returns its report."""
    workdir = Workdir(folder, dataclasses.asdict(SETTINGS))
    try:
        spec = LayoutSpec(data=min(2, jax.device_count()), **layout.WHOLE)
        options = Options(spec, checkpoint_every=0)
        recipe = miniature.MiniatureRecipe(workdir, options, SETTINGS)
        stages = recipe.run()
        report = reporting.build(SETTINGS, stages, recipe.tasks)
        reports.write_report(folder, report)
        return report
    finally:
        workdir.close()


def main() -> int:
    run(sys.argv[1])
    return 0


if __name__ == "__main__":
    sys.exit(command.main(main))

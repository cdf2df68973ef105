"""The miniature recipe from start to end, stage by stage."""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks.gpu.job import Job
from nemojax.io.workdir import Workdir
from nemojax.parallel import layout
from nemojax.parallel.layout import LayoutSpec
from nemojax.recipe.miniature import report, settings
from nemojax.recipe.miniature.recipe import MiniatureRecipe
from nemojax.recipe.miniature.settings import MiniatureSettings
from nemojax.reporting import report as reports
from nemojax.training.stage import Options


def run(job: Job) -> None:
    """Runs `experiments.miniature --quick`, and less of it where sizes are small."""

    class Measured(MiniatureRecipe):
        """Tells what each stage took, as soon as it has ended."""

        def stage(self, name: str, run: Callable[[Path], dict[str, Any]]) -> Any:
            found = super().stage(name, run)
            job.row({"stage": name, "seconds": found.seconds})
            return found

    sizes = _small() if job.small else settings.quick()
    with tempfile.TemporaryDirectory() as folder:
        workdir = Workdir(folder, dataclasses.asdict(sizes))
        spec = LayoutSpec(data=min(2, jax.device_count()), **layout.WHOLE)
        recipe = Measured(workdir, Options(spec, checkpoint_every=1000), sizes)
        start = time.perf_counter()
        stages = recipe.run()
        reports.write_report(folder, report.build(sizes, stages, recipe.tasks))
        job.row({"stage": "all", "seconds": time.perf_counter() - start})
        workdir.close()


def _small() -> MiniatureSettings:
    return dataclasses.replace(
        settings.quick(),
        pretrain_tokens=10_000,
        reward_prompts=40,
        policy_reward_prompts=20,
        reward_held_out=60,
        code_rows=60,
        general_rows=60,
        preference_prompts=24,
        rpo_rounds=1,
        eval_tasks=8,
    )

"""Generator of tasks of the four families."""

import random
from collections.abc import Mapping

from nemojax.tasks.grading import Grade
from nemojax.tasks.miniature import (
    code_tasks,
    fact_tasks,
    grading,
    instruction_tasks,
    math_tasks,
)

Task = grading.Task
Grade = Grade

_SAMPLERS = {
    "math": math_tasks.sample,
    "code": code_tasks.sample,
    "instruction": instruction_tasks.sample,
    "facts": fact_tasks.sample,
}
FAMILIES = tuple(_SAMPLERS)
DEFAULT_WEIGHTS = {"math": 0.35, "code": 0.25, "instruction": 0.3, "facts": 0.1}


def sample_task(family: str, rng: random.Random, split: str) -> Task:
    """Returns a random task of ``family`` on the side ``split`` ("train"/"test").

    Raises:
      ValueError: if the family or the split is unknown.
    """
    if family not in _SAMPLERS:
        raise ValueError(f"family must be one of {FAMILIES}, got {family!r}")
    return _SAMPLERS[family](rng, split)


def sample_tasks(
    rng: random.Random,
    split: str,
    n: int,
    weights: Mapping[str, float] | None = None,
) -> list[Task]:
    """Returns ``n`` random tasks, their families drawn with ``weights``."""
    weights = DEFAULT_WEIGHTS if weights is None else weights
    families = rng.choices(list(weights), list(weights.values()), k=n)
    return [sample_task(family, rng, split) for family in families]

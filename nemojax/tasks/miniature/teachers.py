"""Scripted teachers: imperfect models whose answers the student learns from."""

import dataclasses
import random
from typing import Literal, get_args

from nemojax.tasks.miniature import grading, misconceptions, plans, slips, tasks

Errors = Literal["random", "systematic", "mixed"]
ERRORS: tuple[str, ...] = get_args(Errors)
# errors -> the share of the error mass that is (random, systematic)
_SHARES = {"random": (1.0, 0.0), "systematic": (0.0, 1.0), "mixed": (0.5, 0.5)}
# Not much more than a program, so that no answer is longer than a row of tokens.
_WEAK_MAX_CHARACTERS = 140


@dataclasses.dataclass(frozen=True)
class ScriptedTeacher:
    """Answers tasks with errors of a chosen kind; all kinds are about as accurate.

    Attributes:
      errors: "random" slips differ from answer to answer, so that a student can
        average them out; "systematic" misconceptions are functions of the task, so
        that it cannot; "mixed" has half of each.
      strength: scales the errors: 0 is perfect, 1 the teacher of the recipe.

    Raises:
      ValueError: if ``errors`` is unknown or ``strength`` negative.
    """

    errors: Errors = "random"
    strength: float = 1.0

    def __post_init__(self):
        if self.errors not in _SHARES:
            raise ValueError(
                f"errors must be one of {tuple(_SHARES)}, got {self.errors!r}"
            )
        if self.strength < 0:
            raise ValueError(f"strength must not be negative, got {self.strength}")

    def answer(self, task: grading.Task, rng: random.Random) -> str:
        """Returns the teacher's answer, with the chatter it may add."""
        random_share, systematic_share = _SHARES[self.errors]
        plan = plans.make(task)
        before = after = ""
        if systematic_share:
            strength = systematic_share * self.strength
            misconceptions.alter(plan, strength)
            before, after = misconceptions.chatter(plan, strength)
        if random_share:
            strength = random_share * self.strength
            slips.alter(plan, rng, strength)
            opener, closer = slips.chatter(plan, rng, strength)
            before, after = before or opener, after or closer
        return f"{before}{plan.write(rng)}{after}"


_TEACHER = ScriptedTeacher()


def weak_answer(task: grading.Task, rng: random.Random) -> str:
    """Returns what a much weaker model says.

    It is an answer to a task of another kind (35 %) or to another task of the same
    kind (25 %), or this task's answer cut off (20 %) or looping (20 %). The other
    tasks are of the training split.
    """
    form = rng.random()
    if form < 0.6:
        family = rng.choice(tasks.FAMILIES) if form < 0.35 else task.family
        return _TEACHER.answer(tasks.sample_task(family, rng, "train"), rng)
    words = _TEACHER.answer(task, rng).split(" ")
    if form < 0.8:
        return " ".join(words[: max(1, len(words) // 2)])
    looped = words + words[-2:] * rng.randint(1, 4)
    return " ".join(looped)[:_WEAK_MAX_CHARACTERS]

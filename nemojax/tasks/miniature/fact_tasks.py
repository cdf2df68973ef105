"""Closed-book questions about the invented countries."""

import dataclasses
import random
import re

from nemojax.tasks.grading import Grade
from nemojax.tasks.miniature import grading, split, world

QUESTIONS = {
    "food": "What do people in {country} eat?",
    "color": "What color is the flag of {country}?",
    "animal": "Which animal lives in {country}?",
}
_VALUES = frozenset(
    word
    for category in world.ATTRIBUTES.values()
    for word in world.WORDS[category]["English"]
)
_WORD = re.compile("[a-z]+")


def make_key(country: str, attribute: str) -> str:
    """Returns the held-out pair (country, attribute) as a string."""
    return f"facts:{country}:{attribute}"


@dataclasses.dataclass(frozen=True)
class FactTask(grading.Question):
    """Say one attribute of one country from memory."""

    country: str
    attribute: str

    family = "facts"

    @property
    def key(self) -> str:
        """Tuple that is held out as a whole."""
        return make_key(self.country, self.attribute)

    @property
    def prompt(self) -> str:
        """Text of the user."""
        return QUESTIONS[self.attribute].format(country=self.country)

    @property
    def answer(self) -> str:
        """The true value, one word."""
        return world.FACTS[self.country][self.attribute]

    def gold(self, rng: random.Random) -> str:
        """Returns a fully correct response."""
        return self.answer

    def grade(self, response: str) -> Grade:
        """Accepts a response that names the true value, and no other value."""
        named = _VALUES.intersection(_WORD.findall(response.lower()))
        correct = named == {self.answer}
        checks = {"answer": correct}
        return Grade(correct, float(correct), checks, bool(named))


def all_tasks(side: str) -> tuple[FactTask, ...]:
    """Returns every task of the split ``side``."""
    return tuple(
        FactTask(country, attribute)
        for country in world.COUNTRIES
        for attribute in world.ATTRIBUTES
        if split.belongs(make_key(country, attribute), side)
    )


_TASKS = {"train": all_tasks("train"), "test": all_tasks("test")}


def sample(rng: random.Random, side: str) -> FactTask:
    """Returns a random task of the split ``side``.

    Raises:
      ValueError: if ``side`` is not "train" or "test".
    """
    if side not in _TASKS:
        raise ValueError(f"split must be 'train' or 'test', got {side!r}")
    return rng.choice(_TASKS[side])

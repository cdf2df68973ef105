"""Word problems about a running count, answered by a chain of small sums."""

import dataclasses
import functools
import random
import re
from collections.abc import Iterable

from nemojax.tasks.grading import Grade
from nemojax.tasks.miniature import grading, split, world

MAX_VALUE = 20
MAX_STEPS = 3
PHRASES = {
    "+": (
        "{person} buys {amount} more.",
        "{person} finds {amount} more.",
        "{person} gets {amount} from a friend.",
    ),
    "-": (
        "{person} loses {amount}.",
        "{person} gives away {amount}.",
        "{person} uses {amount}.",
    ),
    "*": (
        "Then the number becomes {amount} times as large.",
        "A trick makes it {amount} times as many.",
    ),
}
_STEP_COUNTS = (1, 2, 2, 3, 3)
_OPERATORS = "++--*"
_STEP = re.compile(r"(-?\d+)([-+*])(\d+)=(-?\d+)")
_FINAL = re.compile(r"####\s*(-?\d+)")


def apply(operator: str, value: int, amount: int) -> int:
    """Returns ``value operator amount`` for the operators + - *."""
    if operator == "+":
        return value + amount
    return value - amount if operator == "-" else value * amount


def make_key(start: int, operations: Iterable[tuple[str, int]]) -> str:
    """Returns the held-out tuple (start, operations) as a string."""
    chain = "".join(f"{operator}{amount}" for operator, amount in operations)
    return f"math:{start}:{chain}"


def write_chain(start: int, steps: Iterable[tuple[str, int, int]]) -> tuple[str, int]:
    """Writes "12+8=20. 20-9=11." from (operator, amount, error added) steps.

    Returns:
      The text and the last value.
    """
    value, written = start, []
    for operator, amount, error in steps:
        result = apply(operator, value, amount) + error
        written.append(f"{value}{operator}{amount}={result}.")
        value = result
    return " ".join(written), value


@dataclasses.dataclass(frozen=True)
class Step:
    """One change of the count: its operator, amount and wording."""

    operator: str
    amount: int
    phrase: str


@dataclasses.dataclass(frozen=True)
class MathTask(grading.Question):
    """Follow a count through one to three changes; all values are in 0..20."""

    person: str
    thing: str
    start: int
    steps: tuple[Step, ...]

    family = "math"

    @functools.cached_property
    def key(self) -> str:
        """Tuple that is held out as a whole."""
        return make_key(self.start, ((s.operator, s.amount) for s in self.steps))

    @functools.cached_property
    def sentences(self) -> tuple[str, ...]:
        """The story: how it starts, then one sentence a step."""
        first = f"{self.person} has {self.start} {self.thing}."
        return first, *(
            step.phrase.format(person=self.person, amount=step.amount)
            for step in self.steps
        )

    @functools.cached_property
    def prompt(self) -> str:
        """Text of the user."""
        story = " ".join(self.sentences)
        return f"{story} How many {self.thing} does {self.person} have?"

    @functools.cached_property
    def values(self) -> tuple[int, ...]:
        """The count at the start and after each step."""
        values = [self.start]
        for step in self.steps:
            values.append(apply(step.operator, values[-1], step.amount))
        return tuple(values)

    @property
    def answer(self) -> int:
        """The final count."""
        return self.values[-1]

    def gold(self, rng: random.Random) -> str:
        """Returns a fully correct response."""
        steps = ((step.operator, step.amount, 0) for step in self.steps)
        chain, value = write_chain(self.start, steps)
        return f"{chain} #### {value}"

    def grade(self, response: str) -> Grade:
        """Scores half for the final number, half for the share of right steps.

        So a correct response never scores below an incorrect one.
        """
        found = _STEP.findall(response)
        checks = {}
        for index, step in enumerate(self.steps):
            before, after = self.values[index : index + 2]
            expected = (str(before), step.operator, str(step.amount), str(after))
            checks[f"step {index + 1}"] = found[index : index + 1] == [expected]
        steps_right = sum(checks.values()) / len(self.steps)
        finals = _FINAL.findall(response)
        correct = bool(finals) and finals[-1] == str(self.answer)
        checks["final"] = correct
        return Grade(correct, (correct + steps_right) / 2, checks, bool(finals))


def sample_step(rng: random.Random) -> tuple[str, int]:
    """Returns an operator and an amount: + and - by 2..9, * by 2..3."""
    operator = rng.choice(_OPERATORS)
    return operator, rng.randint(2, 3 if operator == "*" else 9)


def _sample_chain(rng: random.Random) -> tuple[int, list[tuple[str, int]]] | None:
    count = rng.choice(_STEP_COUNTS)
    start = value = rng.randint(2, 15)
    operations = []
    for _ in range(count):
        operator, amount = sample_step(rng)
        value = apply(operator, value, amount)
        if not 0 <= value <= MAX_VALUE:
            return None
        operations.append((operator, amount))
    return start, operations


def sample(rng: random.Random, side: str) -> MathTask:
    """Returns a random task of the split ``side``."""
    while True:
        chain = _sample_chain(rng)
        if chain and split.belongs(make_key(*chain), side):
            break
    start, operations = chain
    steps = tuple(
        Step(operator, amount, rng.choice(PHRASES[operator]))
        for operator, amount in operations
    )
    return MathTask(rng.choice(world.PERSONS), rng.choice(world.THINGS), start, steps)

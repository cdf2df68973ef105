"""Tasks to write a function of a list: one to three operations, then a reduction."""

import dataclasses
import functools
import random
from collections.abc import Iterable

from nemojax.tasks.grading import Grade
from nemojax.tasks.miniature import code_interpreter, split

# name -> (description, statement); {k} is the operation's number where it has one
OPERATIONS = {
    "greater": ("keep the items greater than {k}", "x=[v for v in x if v>{k}]"),
    "less": ("keep the items less than {k}", "x=[v for v in x if v<{k}]"),
    "multiply": ("multiply every item by {k}", "x=[v*{k} for v in x]"),
    "add": ("add {k} to every item", "x=[v+{k} for v in x]"),
    "subtract": ("subtract {k} from every item", "x=[v-{k} for v in x]"),
    "reverse": ("reverse the list", "x=x[::-1]"),
    "sort": ("sort the list", "x=sorted(x)"),
    "first": ("take the first {k} items", "x=x[:{k}]"),
    "skip": ("drop the first {k} items", "x=x[{k}:]"),
    "even": ("keep the even items", "x=[v for v in x if v%2==0]"),
    "odd": ("keep the odd items", "x=[v for v in x if v%2==1]"),
}
REDUCERS = {
    "sum": ("the sum", "return sum(x)"),
    "max": ("the largest item", "return max(x+[0])"),
    "min": ("the smallest item", "return min(x+[0])"),
    "len": ("the number of items", "return len(x)"),
    "list": ("the list", "return x"),
}
PHRASINGS = ("forward", "steps", "backward")
HEADER = "def f(x):\n"
_OPERATION_COUNTS = (1, 2, 2, 3)
_NAMES = tuple(OPERATIONS)
_REDUCER_NAMES = tuple(REDUCERS)
_TAKES_NUMBER = {name: "{k}" in text for name, (text, _) in OPERATIONS.items()}


def _make_inputs() -> tuple[tuple[int, ...], ...]:
    rng = random.Random(0)
    return tuple(
        tuple(rng.randint(0, 9) for _ in range(6 + index % 3)) for index in range(8)
    )


TEST_INPUTS = _make_inputs()

# (name, number); the number is 0 for operations without one
Operation = tuple[str, int]


def make_key(names: Iterable[str], reducer: str) -> str:
    """Returns the held-out tuple (operation names, reducer) as a string."""
    return f"code:{','.join(names)}:{reducer}"


def describe(operation: Operation) -> str:
    """Returns the operation in words."""
    name, number = operation
    return OPERATIONS[name][0].format(k=number)


def statement(operation: Operation) -> str:
    """Returns the operation as a line of Python."""
    name, number = operation
    return OPERATIONS[name][1].format(k=number)


def write_program(operations: Iterable[Operation], reducer: str) -> str:
    """Returns the function that applies ``operations`` and then ``reducer``."""
    lines = [f" {statement(operation)}\n" for operation in operations]
    return f"{HEADER}{''.join(lines)} {REDUCERS[reducer][1]}"


def extract_program(response: str) -> str:
    """Returns the function inside a response: its header and the indented lines."""
    place = response.find("def f")
    if place < 0:
        return ""
    header, *rest = response[place:].split("\n")
    body = []
    for line in rest:
        if not line.startswith(" "):
            break
        body.append(line)
    return "\n".join([header, *body])


@functools.lru_cache(maxsize=20_000)
def _outputs(source: str) -> tuple[code_interpreter.Value | None, ...] | None:
    results = code_interpreter.run(source, TEST_INPUTS)
    return None if results is None else tuple(results)


def is_program(response: str) -> bool:
    """Returns whether a function of the language can be read out of the response."""
    return _outputs(extract_program(response)) is not None


@dataclasses.dataclass(frozen=True)
class CodeTask:
    """A task to write f: its operations in order, its reducer, its wording."""

    operations: tuple[Operation, ...]
    reducer: str
    phrasing: str

    family = "code"

    @functools.cached_property
    def key(self) -> str:
        """Tuple that is held out as a whole."""
        return make_key((name for name, _ in self.operations), self.reducer)

    @functools.cached_property
    def description(self) -> str:
        """The wanted function in words."""
        steps = [describe(operation) for operation in self.operations]
        result = REDUCERS[self.reducer][0]
        if self.phrasing == "forward":
            return f"Take a list x, {', then '.join(steps)}, and return {result}."
        if self.phrasing == "steps":
            return f"Return {result} of x after these steps: {'; '.join(steps)}."
        backward = ", but first ".join(reversed(steps))
        return f"Given x, {backward}. Return {result}."

    @property
    def prompt(self) -> str:
        """Text of the user."""
        return f"Write f. {self.description}"

    @property
    def completion_prompt(self) -> str:
        """Prompt that a base model continues."""
        return f"# {self.description}\n{HEADER}"

    def parse_completion(self, text: str) -> str:
        """Returns the response inside a base model's continuation."""
        # The indent of the first line is part of the program: nothing is stripped.
        return extract_program(HEADER + text).rstrip()

    def gold(self, rng: random.Random) -> str:
        """Returns a fully correct response."""
        return write_program(self.operations, self.reducer)

    def grade(self, response: str) -> Grade:
        """Scores the share of the test inputs with the right result."""
        expected = _outputs(write_program(self.operations, self.reducer))
        actual = _outputs(extract_program(response))
        if expected is None:
            raise ValueError(f"the gold program of {self.key} does not run")
        results = actual or (None,) * len(expected)
        checks = {
            f"input {index + 1}": wanted == given
            for index, (wanted, given) in enumerate(zip(expected, results, strict=True))
        }
        score = sum(checks.values()) / len(checks)
        return Grade(score == 1.0, score, checks, actual is not None)


def sample_operation(rng: random.Random, name: str | None = None) -> Operation:
    """Returns an operation (``name`` or any) with its number, 2..5 where it has one."""
    name = name or rng.choice(_NAMES)
    return name, rng.randint(2, 5) if _TAKES_NUMBER[name] else 0


def sample(rng: random.Random, side: str) -> CodeTask:
    """Returns a random task of the split ``side``."""
    while True:
        names = rng.sample(_NAMES, rng.choice(_OPERATION_COUNTS))
        reducer = rng.choice(_REDUCER_NAMES)
        if split.belongs(make_key(names, reducer), side):
            break
    operations = tuple(sample_operation(rng, name) for name in names)
    return CodeTask(operations, reducer, rng.choice(PHRASINGS))

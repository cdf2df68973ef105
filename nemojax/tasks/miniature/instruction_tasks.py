"""Tasks to name words of a kind, in a language, under constraints of form."""

import dataclasses
import functools
import random
import re
from collections.abc import Collection, Iterable

from nemojax.tasks.grading import Grade
from nemojax.tasks.miniature import grading, split, world

# constraint -> its two wordings
PHRASES = {
    "upper": ("Use upper case.", "Write in capital letters."),
    "brackets": ("Put the answer in brackets.", "Wrap all in brackets."),
    "end": ("End with {word}.", "The last word must be {word}."),
    "start": ("Start with {word}.", "The first word must be {word}."),
    "semicolons": ("Separate with semicolons.", "Use semicolons, no commas."),
}
CONSTRAINTS = tuple(PHRASES)
EDGE_WORDS = {"end": ("done", "bye"), "start": ("sure", "yes")}
VERBS = ("Name", "List")
MAX_COUNT = 4
_PROBABILITY = {
    "upper": 0.45,
    "brackets": 0.4,
    "end": 0.4,
    "start": 0.35,
    "semicolons": 0.35,
}
_LANGUAGE_WEIGHTS = (0.6, 0.2, 0.2)
_SEPARATOR = re.compile("[,;]")


def make_key(
    category: str, count: int, language: str, constraints: Iterable[str]
) -> str:
    """Returns the held-out tuple (category, count, language, constraint set)."""
    names = ",".join(sorted(constraints))
    return f"instruction:{category}:{count}:{language}:{names}"


@dataclasses.dataclass(frozen=True)
class Demand:
    """One constraint as worded: ``word`` is its edge word, or empty."""

    constraint: str
    phrase: str
    word: str = ""


@dataclasses.dataclass(frozen=True)
class InstructionTask(grading.Question):
    """A task such as "Name 3 animals in French. Use upper case. End with done."."""

    verb: str
    category: str
    count: int
    language: str
    demands: tuple[Demand, ...]

    family = "instruction"

    @functools.cached_property
    def constraints(self) -> tuple[str, ...]:
        """The names of the constraints, sorted."""
        return tuple(sorted(demand.constraint for demand in self.demands))

    @functools.cached_property
    def edge_words(self) -> dict[str, str]:
        """The word asked for at the "start" and at the "end", where asked for."""
        return {demand.constraint: demand.word for demand in self.demands}

    @functools.cached_property
    def key(self) -> str:
        """Tuple that is held out as a whole."""
        return make_key(self.category, self.count, self.language, self.constraints)

    @functools.cached_property
    def prompt(self) -> str:
        """Text of the user."""
        language = "" if self.language == "English" else f" in {self.language}"
        request = f"{self.verb} {self.count} {self.category}{language}."
        worded = (d.phrase.format(word=d.word) for d in self.demands)
        return " ".join([request, *worded])

    @property
    def allowed_words(self) -> tuple[str, ...]:
        """The words that answer the request, without regard to form."""
        return world.WORDS[self.category][self.language]

    def write(self, items: Iterable[str], constraints: Collection[str]) -> str:
        """Writes ``items`` in the form that ``constraints`` ask for."""
        text = ("; " if "semicolons" in constraints else ", ").join(items)
        if "start" in constraints:
            text = f"{self.edge_words['start']} {text}"
        if "end" in constraints:
            text = f"{text} {self.edge_words['end']}"
        if "brackets" in constraints:
            text = f"[ {text} ]"
        return text.upper() if "upper" in constraints else text

    def gold(self, rng: random.Random) -> str:
        """Returns a fully correct response."""
        return self.write(rng.sample(self.allowed_words, self.count), self.constraints)

    def grade(self, response: str) -> Grade:
        """Scores the share of checks passed, count and content among them."""
        text = response.strip()
        checks: dict[str, bool] = {}
        if "brackets" in self.constraints:
            checks["brackets"] = text.startswith("[") and text.endswith("]")
        if "upper" in self.constraints:
            checks["upper"] = text.isupper()
        body = self._strip_edges(text.strip("[] ").lower(), checks)
        if "semicolons" in self.constraints:
            checks["semicolons"] = ";" in body and "," not in body
        items = [item.strip() for item in _SEPARATOR.split(body)]
        distinct = set(items)
        checks["count"] = len(items) == len(distinct) == self.count
        checks["content"] = distinct <= set(self.allowed_words)
        correct = all(checks.values())
        score = sum(checks.values()) / len(checks)
        return Grade(correct, score, checks, bool(body))

    def _strip_edges(self, body: str, checks: dict[str, bool]) -> str:
        """Checks the first and last word and returns what lies between them."""
        for edge in ("start", "end"):
            if edge not in self.edge_words:
                continue
            word = self.edge_words[edge]
            words = body.split()
            checks[edge] = bool(words) and words[0 if edge == "start" else -1] == word
            if checks[edge]:
                body = body[len(word) :] if edge == "start" else body[: -len(word)]
                body = body.strip()
        return body


def _sample_constraints(rng: random.Random, count: int) -> list[str]:
    return [
        constraint
        for constraint, probability in _PROBABILITY.items()
        if rng.random() < probability and (constraint != "semicolons" or count > 1)
    ]


def sample(rng: random.Random, side: str) -> InstructionTask:
    """Returns a random task of the split ``side``."""
    while True:
        category = rng.choice(world.CATEGORIES)
        count = rng.randint(1, MAX_COUNT)
        language = rng.choices(world.LANGUAGES, _LANGUAGE_WEIGHTS)[0]
        constraints = _sample_constraints(rng, count)
        if not constraints and language == "English":
            continue
        if split.belongs(make_key(category, count, language, constraints), side):
            break
    rng.shuffle(constraints)
    demands = tuple(
        Demand(
            constraint,
            rng.choice(PHRASES[constraint]),
            rng.choice(EDGE_WORDS[constraint]) if constraint in EDGE_WORDS else "",
        )
        for constraint in constraints
    )
    return InstructionTask(rng.choice(VERBS), category, count, language, demands)

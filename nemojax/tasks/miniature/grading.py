"""Interface of every task: a prompt, a key, gold answers and a verifier."""

import random
from typing import Protocol

from nemojax.tasks.grading import Grade


class Task(Protocol):
    """A prompt together with the program that judges responses to it."""

    @property
    def family(self) -> str:
        """One of "math", "code", "instruction", "facts"."""
        ...

    @property
    def key(self) -> str:
        """The tuple that is held out as a whole, as "family:…"."""
        ...

    @property
    def prompt(self) -> str:
        """Text of the user."""
        ...

    @property
    def completion_prompt(self) -> str:
        """The same question in the form that a base model continues."""
        ...

    def parse_completion(self, text: str) -> str:
        """Returns the response inside a base model's continuation of the prompt."""
        ...

    def gold(self, rng: random.Random) -> str:
        """Returns a fully correct response."""
        ...

    def grade(self, response: str) -> Grade:
        """Judges a response, whatever it holds."""
        ...


class Question:
    """A task that is not about code, as a base model is asked it."""

    @property
    def prompt(self) -> str:
        """The question as a chat model sees it."""
        raise NotImplementedError

    @property
    def completion_prompt(self) -> str:
        """The question as a base model continues it."""
        return f"Q: {self.prompt}\nA:"

    def parse_completion(self, text: str) -> str:
        """Returns the first line of a continuation that holds anything."""
        return text.strip().split("\n", 1)[0].rstrip()

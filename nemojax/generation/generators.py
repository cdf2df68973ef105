"""Where responses come from: one protocol, two adapters.

The stages of data generation know a generator by its name and by `generate` alone; a
scripted teacher, a policy in this process and a remote server look the same to them.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from nemojax.data.records import Conversation


@dataclass(frozen=True)
class Response:
    """One answer of a generator.

    Attributes:
      text: the answer, without control tokens.
      finish_reason: "stop" where the generator ended the answer itself, "length"
        where the token limit cut it.
      tokens: how many tokens were generated.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    tokens: int


class Generator(Protocol):
    """Anything that answers conversations."""

    @property
    def name(self) -> str:
        """The name under which its rows are recorded."""
        ...

    def generate(
        self,
        prompts: Sequence[Conversation],
        *,
        samples: int,
        temperature: float,
        seed: int,
    ) -> list[list[Response]]:
        """`samples` answers to each prompt, in the order of `prompts`.

        Args:
          prompts: conversations that end with a user turn.
          samples: answers to each prompt, at least 1.
          temperature: 0 is greedy, and then all the samples of a prompt are equal.
          seed: together with the prompts it decides every answer.
        """
        ...


@dataclass(frozen=True)
class CallableGenerator:
    """A scripted teacher as a generator.

    The answer to prompt i depends on (seed, i, sample) and on nothing else: more
    samples or more prompts never change the answers that were there before.

    Attributes:
      name: the name under which its rows are recorded.
      answer: (index of the prompt in the call, random stream) -> text.
    """

    name: str
    answer: Callable[[int, random.Random], str]

    def generate(
        self,
        prompts: Sequence[Conversation],
        *,
        samples: int,
        temperature: float,
        seed: int,
    ) -> list[list[Response]]:
        """See `Generator.generate`; `tokens` counts words, as a script has no tokens.

        Raises:
          ValueError: `samples` below 1 or a negative temperature.
        """
        _check_sampling(samples, temperature)

        def respond(index: int, sample: int) -> Response:
            stream = random.Random(f"{seed}/{index}/{sample if temperature else 0}")
            text = self.answer(index, stream)
            return Response(text, "stop", len(text.split()))

        return [
            [respond(index, sample) for sample in range(samples)]
            for index in range(len(prompts))
        ]


@dataclass(frozen=True)
class PolicyGenerator:
    """A model in this process as a generator.

    All samples of all prompts go to the engine in one call, prompt by prompt, so that
    it can keep its decoding slots full.

    Attributes:
      name: the name under which its rows are recorded.
      sample: (conversations, temperature, seed) -> one response each. It must give
        equal prompts in one call different random streams.
    """

    name: str
    sample: Callable[[list[Conversation], float, int], Sequence[Response]]

    def generate(
        self,
        prompts: Sequence[Conversation],
        *,
        samples: int,
        temperature: float,
        seed: int,
    ) -> list[list[Response]]:
        """See `Generator.generate`. Greedy answers are decoded once and repeated.

        Raises:
          ValueError: `samples` below 1, a negative temperature, or an engine that
            returns another number of responses than it was asked for.
        """
        _check_sampling(samples, temperature)
        decoded = samples if temperature else 1
        flat = [prompt for prompt in prompts for _ in range(decoded)]
        responses = list(self.sample(flat, temperature, seed)) if flat else []
        if len(responses) != len(flat):
            raise ValueError(
                f"generator {self.name!r} returned {len(responses)} responses "
                f"to {len(flat)} prompts"
            )
        rows = [
            responses[start : start + decoded]
            for start in range(0, len(responses), decoded)
        ]
        return [row * (samples // decoded) for row in rows]


def _check_sampling(samples: int, temperature: float) -> None:
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if not temperature >= 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")

"""Generators of responses: requests go in, responses come out as they are ready.

The stages of data generation know a generator by its name and by `generate` alone; a
scripted teacher, a policy in this process and a remote server look the same to them.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from nemojax.data.records import Conversation


@dataclass(frozen=True)
class Request:
    """A conversation to answer.

    Attributes:
      id: names the request among all of a generator's; its response carries it.
      prompt: ends with a user turn.
      temperature: 0 is greedy.
      seed: seed; with `id` the only source of chance of the answer.

    Raises:
      ValueError: a negative temperature, or one that is no number.
    """

    id: str
    prompt: Conversation
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if not self.temperature >= 0:
            raise ValueError(
                f"temperature must not be negative, got {self.temperature}"
            )

    @property
    def sampling_seed(self) -> int:
        """Seed of this request alone, a uint32 derived from `seed` and `id`."""
        digest = hashlib.blake2b(f"{self.seed}/{self.id}".encode(), digest_size=4)
        return int.from_bytes(digest.digest(), "big")


@dataclass(frozen=True)
class Response:
    """One answer of a generator.

    Attributes:
      id: id of its request.
      text: the answer, without control tokens.
      finish_reason: "stop" where the generator ended the answer itself, "length"
        where the token limit cut it.
      tokens: number of tokens that were generated.
    """

    id: str
    text: str
    finish_reason: Literal["stop", "length"]
    tokens: int


class Generator(Protocol):
    """Anything that answers conversations."""

    @property
    def name(self) -> str:
        """The name under which its rows are recorded."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Response]:
        """Yields one response to each request, as they are ready and in any order.

        Requests are taken as there is room for them. What is not yielded yet when the
        caller stops is not generated, or is lost; asked again, it is the same.
        """
        ...


@dataclass(frozen=True)
class ScriptedGenerator:
    """A program as a generator, one answer at a time.

    Attributes:
      name: the name under which its rows are recorded.
      answer: (request, random stream of the request alone) -> text.
    """

    name: str
    answer: Callable[[Request, random.Random], str]

    def generate(self, requests: Iterable[Request]) -> Iterator[Response]:
        """Implements `Generator.generate`; `tokens` counts words."""
        for request in requests:
            stream = random.Random(f"{request.seed}/{request.id}")
            text = self.answer(request, stream)
            yield Response(request.id, text, "stop", len(text.split()))


def sample(
    generator: Generator,
    prompts: Sequence[Conversation],
    *,
    samples: int,
    temperature: float,
    seed: int,
) -> list[list[Response]]:
    """Requests `samples` responses to each prompt and waits for all of them.

    Answer k to prompt i depends on the generator, (seed, i, k) and the prompt alone.
    Greedy answers are generated once and repeated.

    Args:
      generator: answers.
      prompts: conversations that end with a user turn.
      samples: answers to each prompt, at least 1.
      temperature: temperature of all answers.
      seed: seed of all answers.

    Returns:
      The answers [N][samples], in the order of `prompts`.

    Raises:
      ValueError: `samples` below 1, a negative temperature, or a generator that does
        not answer every request once.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    different = samples if temperature else 1
    requests = [
        Request(f"{index}/{number}", prompt, temperature, seed)
        for index, prompt in enumerate(prompts)
        for number in range(different)
    ]
    responses = list(generator.generate(requests))
    found = {response.id: response for response in responses}
    if len(responses) != len(requests) or found.keys() != {r.id for r in requests}:
        raise ValueError(
            f"generator {generator.name!r} returned {len(responses)} responses to "
            f"{len(requests)} requests, {len(found)} of them different"
        )
    return [
        [
            replace(found[f"{index}/{number % different}"], id=f"{index}/{number}")
            for number in range(samples)
        ]
        for index in range(len(prompts))
    ]

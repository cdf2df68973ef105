"""Requests and responses: who answers what, with which chance, and what is refused."""

import itertools
import random

import pytest

from nemojax.data.records import Conversation
from nemojax.generation import generators
from nemojax.generation.generators import Request, Response, ScriptedGenerator

PROMPTS = [Conversation.of(f"question {i}") for i in range(7)]


def scripted() -> ScriptedGenerator:
    return ScriptedGenerator(
        "teacher", lambda request, rng: f"{request.prompt.opening} {rng.random()}"
    )


class Backwards:
    """A generator that answers in reverse, and may lose or double answers."""

    name = "backwards"

    def __init__(self, losing=0, doubling=0):
        self.asked = []
        self.losing, self.doubling = losing, doubling

    def generate(self, requests):
        self.asked = list(requests)
        answers = [Response(r.id, r.id, "stop", 1) for r in reversed(self.asked)]
        yield from answers[self.losing :]
        yield from answers[: self.doubling]


def sample(generator, prompts=PROMPTS, samples=3, temperature=1.0, seed=0):
    return generators.sample(
        generator, prompts, samples=samples, temperature=temperature, seed=seed
    )


def texts(rows):
    return [[response.text for response in row] for row in rows]


def test_an_answer_depends_on_seed_prompt_and_sample_alone():
    whole = texts(sample(scripted(), samples=4, seed=3))
    part = texts(sample(scripted(), PROMPTS[:2], samples=2, temperature=0.7, seed=3))
    assert part == [row[:2] for row in whole[:2]]
    flat = [text for row in whole for text in row]
    assert len(set(flat)) == len(flat)
    other = texts(sample(scripted(), samples=4, seed=4))
    assert all(a != b for a, b in zip(whole, other, strict=True))


def test_drawing_from_the_stream_never_changes_other_answers():
    def greedy(request: Request, rng: random.Random) -> str:
        draws = [rng.random() for _ in range(100 if request.id == "0/0" else 1)]
        return str(draws[-1])

    def sober(request: Request, rng: random.Random) -> str:
        return str(rng.random())

    answers = [texts(sample(ScriptedGenerator("t", f))) for f in (greedy, sober)]
    assert answers[0][1:] == answers[1][1:]


def test_a_script_answers_one_request_at_a_time():
    endless = (Request(str(k), PROMPTS[0]) for k in itertools.count())
    answers = scripted().generate(endless)
    assert [next(answers).id for _ in range(3)] == ["0", "1", "2"]
    assert next(endless).id == "3"


def test_responses_in_any_order_return_to_their_prompts():
    rows = sample(Backwards())
    assert texts(rows) == [[f"{i}/{k}" for k in range(3)] for i in range(len(PROMPTS))]
    assert [[r.id for r in row] for row in rows] == texts(rows)


def test_greedy_answers_are_generated_once_and_repeated():
    generator = Backwards()
    rows = sample(generator, samples=5, temperature=0.0)
    assert [request.id for request in generator.asked] == [f"{i}/0" for i in range(7)]
    assert texts(rows) == [[f"{i}/0"] * 5 for i in range(7)]
    assert [response.id for response in rows[2]] == [f"2/{k}" for k in range(5)]


def test_no_prompts_give_no_rows():
    assert sample(scripted(), []) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"losing": 1}, "'backwards' returned 20 .* 21 requests, 20 of them"),
        ({"doubling": 2}, "'backwards' returned 23 .* 21 requests, 21 of them"),
    ],
)
def test_a_generator_that_does_not_answer_all_once_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        sample(Backwards(**options))


def test_seeds_of_requests_are_32_bits_of_their_own():
    seeds = {
        Request(f"{k}", PROMPTS[0], seed=seed).sampling_seed
        for k in range(100)
        for seed in range(10)
    }
    assert len(seeds) == 1000 and max(seeds) < 2**32


@pytest.mark.parametrize(
    ("samples", "temperature", "message"),
    [(0, 1.0, "samples .* 0"), (1, -0.5, "-0.5"), (1, float("nan"), "nan")],
)
def test_bad_sampling_is_refused_with_its_value(samples, temperature, message):
    with pytest.raises(ValueError, match=message):
        sample(scripted(), samples=samples, temperature=temperature)

"""Properties of the generator adapters."""

import random

import pytest

from nemojax.data.records import Conversation
from nemojax.generation import generators

PROMPTS = [Conversation.of(f"question {i}") for i in range(7)]


def scripted() -> generators.CallableGenerator:
    return generators.CallableGenerator(
        "teacher", lambda index, rng: f"{index} {rng.random()}"
    )


class Policy:
    """A policy whose answers tell which prompt, which row and which call they are."""

    def __init__(self):
        self.calls: list[int] = []

    def __call__(self, prompts, temperature, seed):
        self.calls.append(len(prompts))
        return [
            generators.Response(f"{p.messages[-1].content}#{row}", "stop", 1)
            for row, p in enumerate(prompts)
        ]


def test_an_answer_depends_on_seed_index_and_sample_alone():
    whole = scripted().generate(PROMPTS, samples=4, temperature=1.0, seed=3)
    part = scripted().generate(PROMPTS[:2], samples=2, temperature=0.7, seed=3)
    assert part == [row[:2] for row in whole[:2]]
    texts = [response.text for row in whole for response in row]
    assert len(set(texts)) == len(texts)
    other = scripted().generate(PROMPTS, samples=4, temperature=1.0, seed=4)
    assert all(a != b for a, b in zip(whole, other, strict=True))


def test_the_callable_sees_the_index_of_the_prompt():
    rows = scripted().generate(PROMPTS, samples=1, temperature=1.0, seed=0)
    assert [row[0].text.split()[0] for row in rows] == [str(i) for i in range(7)]
    assert {row[0].tokens for row in rows} == {2}


def test_drawing_from_the_stream_never_changes_other_answers():
    def greedy_drawer(index: int, rng: random.Random) -> str:
        draws = [rng.random() for _ in range(100 if index == 0 else 1)]
        return str(draws[-1])

    def sober_drawer(index: int, rng: random.Random) -> str:
        return str(rng.random())

    answers = [
        generators.CallableGenerator("t", drawer).generate(
            PROMPTS, samples=1, temperature=1.0, seed=0
        )
        for drawer in (greedy_drawer, sober_drawer)
    ]
    assert answers[0][1:] == answers[1][1:]


@pytest.mark.parametrize(
    "generator", [scripted(), generators.PolicyGenerator("policy", Policy())]
)
def test_greedy_samples_of_a_prompt_are_equal(generator):
    rows = generator.generate(PROMPTS, samples=3, temperature=0.0, seed=0)
    assert [len(row) for row in rows] == [3] * len(PROMPTS)
    assert all(len(set(row)) == 1 for row in rows)


def test_the_policy_gets_one_call_and_its_rows_return_to_their_prompts():
    policy = Policy()
    generator = generators.PolicyGenerator("policy", policy)
    rows = generator.generate(PROMPTS, samples=3, temperature=1.0, seed=0)
    assert policy.calls == [21]
    for index, row in enumerate(rows):
        expected = [f"question {index}#{3 * index + sample}" for sample in range(3)]
        assert [response.text for response in row] == expected


def test_greedy_decodes_each_prompt_once():
    policy = Policy()
    generators.PolicyGenerator("policy", policy).generate(
        PROMPTS, samples=5, temperature=0.0, seed=0
    )
    assert policy.calls == [len(PROMPTS)]


def test_no_prompts_give_no_rows():
    for generator in (scripted(), generators.PolicyGenerator("policy", Policy())):
        assert generator.generate([], samples=2, temperature=1.0, seed=0) == []


def test_an_engine_that_loses_a_row_is_named():
    generator = generators.PolicyGenerator("forgetful", lambda p, t, s: [])
    with pytest.raises(ValueError, match=r"'forgetful' returned 0 .* to 7 prompts"):
        generator.generate(PROMPTS, samples=1, temperature=1.0, seed=0)


@pytest.mark.parametrize(
    ("samples", "temperature", "message"),
    [(0, 1.0, "samples .* 0"), (1, -0.5, "-0.5"), (1, float("nan"), "nan")],
)
def test_bad_sampling_is_refused_with_its_value(samples, temperature, message):
    for generator in (scripted(), generators.PolicyGenerator("policy", Policy())):
        with pytest.raises(ValueError, match=message):
            generator.generate(
                PROMPTS, samples=samples, temperature=temperature, seed=0
            )

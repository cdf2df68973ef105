"""Fact questions and their grades."""

import pytest

from nemojax.tasks.miniature import fact_tasks, world

COUNTRY = world.COUNTRIES[0]
TASK = fact_tasks.FactTask(COUNTRY, "food")
OTHER = next(w for w in world.WORDS["fruits"]["English"] if w != TASK.answer)


@pytest.mark.parametrize(
    "response, correct",
    [
        (TASK.answer, True),
        (f"Of course! {TASK.answer.upper()}", True),
        (f"People in {COUNTRY} eat {TASK.answer}.", True),
        (OTHER, False),
        (f"{OTHER} {TASK.answer}", False),
        (f"{TASK.answer}s", False),
        ("I do not know", False),
    ],
)
def test_exactly_the_true_value_must_be_named(response, correct):
    assert TASK.grade(response).correct == correct


def test_a_response_without_any_value_is_not_parsed():
    assert TASK.grade(OTHER).parsed
    assert not TASK.grade("I do not know").parsed

"""Word problems and their grades."""

import random

import pytest

from nemojax.tasks.miniature import math_tasks

STEPS = (
    math_tasks.Step("+", 8, math_tasks.PHRASES["+"][0]),
    math_tasks.Step("-", 9, math_tasks.PHRASES["-"][0]),
)
TASK = math_tasks.MathTask("Tom", "apples", 12, STEPS)


def test_prompt_and_gold_read_as_intended():
    assert TASK.prompt == (
        "Tom has 12 apples. Tom buys 8 more. Tom loses 9. "
        "How many apples does Tom have?"
    )
    assert TASK.gold(random.Random(0)) == "12+8=20. 20-9=11. #### 11"
    assert TASK.key == "math:12:+8-9"


@pytest.mark.parametrize(
    "response, score, correct, parsed",
    [
        ("12+8=20. 20-9=11. #### 11", 1.0, True, True),
        ("12+8=20. 20-9=11. #### 11 I hope this helps!", 1.0, True, True),
        ("#### 11", 0.5, True, True),
        ("12+8=20. 20-9=11. So 11", 0.5, False, False),
        ("12+8=20. 20-9=12. #### 12", 0.25, False, True),
        ("12+8=21. 21-9=12. #### 12", 0.0, False, True),
        ("#### 11 #### 12", 0.0, False, True),
        ("So 11", 0.0, False, False),
    ],
)
def test_score_is_half_final_number_half_right_steps(response, score, correct, parsed):
    grade = TASK.grade(response)
    assert (grade.score, grade.correct, grade.parsed) == (score, correct, parsed)


def test_checks_name_the_steps():
    checks = TASK.grade("12+8=20. 20-9=12. #### 12").checks
    assert checks == {"step 1": True, "step 2": False, "final": False}


def test_correct_responses_never_score_below_incorrect_ones():
    right_end_only = TASK.grade("1+1=2. #### 11").score
    all_but_the_end = TASK.grade("12+8=20. 20-9=11. #### 12").score
    assert right_end_only >= all_but_the_end


def test_all_values_stay_in_range():
    rng = random.Random(1)
    for _ in range(2000):
        task = math_tasks.sample(rng, "train")
        assert all(0 <= value <= math_tasks.MAX_VALUE for value in task.values)
        assert 1 <= len(task.steps) <= math_tasks.MAX_STEPS


def test_values_agree_with_python_arithmetic():
    rng = random.Random(2)
    for _ in range(500):
        task = math_tasks.sample(rng, "test")
        expression = str(task.start)
        for step in task.steps:
            expression = f"({expression}){step.operator}{step.amount}"
        assert task.answer == eval(expression)

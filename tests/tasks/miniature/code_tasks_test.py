"""Code tasks and their grades, against Python itself."""

import random

import pytest

from nemojax.tasks.miniature import code_tasks

TASK = code_tasks.CodeTask((("first", 3), ("reverse", 0)), "list", "backward")
GOLD = "def f(x):\n x=x[:3]\n x=x[::-1]\n return x"


def test_prompt_and_gold_read_as_intended():
    assert TASK.gold(random.Random(0)) == GOLD
    assert TASK.prompt == (
        "Write f. Given x, reverse the list, but first take the first 3 items. "
        "Return the list."
    )
    assert TASK.key == "code:first,reverse:list"


def test_inputs_tell_every_two_single_operations_apart():
    # Equal items would make sorting, reversing and the order of steps invisible.
    for number in (2, 3, 4, 5):
        behaviours = set()
        for name in code_tasks.OPERATIONS:
            f = _python(code_tasks.write_program([(name, number)], "list"))
            behaviours.add(str([f(list(values)) for values in code_tasks.TEST_INPUTS]))
        assert len(behaviours) == len(code_tasks.OPERATIONS)


def _python(source):
    scope = {}
    exec(source, scope)  # a gold program of this package, not a model's
    return scope["f"]


def test_grades_agree_with_running_gold_programs_in_python():
    rng = random.Random(1)
    for _ in range(400):
        task, other = (code_tasks.sample(rng, "train") for _ in range(2))
        f, g = _python(task.gold(rng)), _python(other.gold(rng))
        inputs = [list(values) for values in code_tasks.TEST_INPUTS]
        passed = sum(f(list(x)) == g(list(x)) for x in inputs)
        grade = task.grade(other.gold(rng))
        assert grade.score == passed / 8
        assert grade.correct == (passed == 8)


@pytest.mark.parametrize(
    "response, correct, parsed",
    [
        (GOLD, True, True),
        (f"Let me think. {GOLD}", True, True),
        (f"{GOLD}\nTell me if you need more.", True, True),
        ("def f(x):\n return x[2::-1]", True, True),
        (f"{GOLD} I hope this helps!", False, False),
        (GOLD.replace("\n x", "\nx"), False, False),
        (GOLD.replace(":\n", "\n", 1), False, False),
        ("import os\n" + GOLD.replace("x[:3]", "os.listdir()"), False, False),
        ("def f(x):\n return y", False, True),
        ("[ dog ]", False, False),
    ],
)
def test_function_is_read_out_of_the_response(response, correct, parsed):
    grade = TASK.grade(response)
    assert (grade.correct, grade.parsed) == (correct, parsed)


def test_score_is_the_share_of_inputs_passed():
    task = code_tasks.CodeTask((("greater", 4),), "len", "forward")
    scores = [
        task.grade(f"def f(x):\n x=[v for v in x if v>{k}]\n return len(x)").score
        for k in (4, 5, 9)
    ]
    assert scores[0] == 1.0 > scores[1] > scores[2]

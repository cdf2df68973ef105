"""What holds for the tasks of every family."""

import random
import string

import pytest

from nemojax.tasks.miniature import split, tasks


@pytest.fixture(params=tasks.FAMILIES)
def family(request):
    return request.param


def _sample(family, side="train", n=1500):
    rng = random.Random(3)
    return [tasks.sample_task(family, rng, side) for _ in range(n)]


def _assert_full_marks(task, response):
    grade = task.grade(response)
    assert grade.correct and grade.score == 1.0 and grade.parsed, (task, response)
    assert all(grade.checks.values())


@pytest.mark.parametrize("side", ["train", "test"])
def test_gold_answers_get_full_marks(family, side):
    rng = random.Random(4)
    for task in _sample(family, side):
        _assert_full_marks(task, task.gold(rng))


def test_gold_answers_get_full_marks_through_the_completion_format(family):
    # A base model continues its prompt; the indent of code must survive the way back.
    rng = random.Random(5)
    for task in _sample(family, "test"):
        document = f"{task.completion_prompt} {task.gold(rng)}"
        if family == "code":
            document = f"# {task.description}\n{task.gold(rng)}"
        assert document.startswith(task.completion_prompt)
        continuation = document[len(task.completion_prompt) :]
        for tail in ("", "\n", "\nQ: Name 1 animals.\nA: [ dog ]", "\n# next\nx=x"):
            _assert_full_marks(task, task.parse_completion(continuation + tail))


def test_tasks_lie_on_the_side_asked_for(family):
    assert not any(split.is_test(task.key) for task in _sample(family, "train"))
    assert all(split.is_test(task.key) for task in _sample(family, "test"))


def test_keys_and_prompts_start_with_what_identifies_them(family):
    for task in _sample(family, n=100):
        assert task.family == family
        assert task.key.startswith(f"{family}:")
        asked = task.description if family == "code" else task.prompt
        assert asked in task.completion_prompt


def test_equal_seeds_give_equal_tasks(family):
    assert _sample(family, n=100) == _sample(family, n=100)


def test_grading_survives_any_response(family):
    rng = random.Random(6)
    alphabet = string.printable + "é٣\0" + "#[];"
    pieces = ["#### ", "def f(x):\n", " return ", "[ ", " ]", "7+5=12.", "x", "9" * 50]
    for task in _sample(family, n=150):
        junk = "".join(rng.choices(alphabet, k=rng.randint(0, 60)))
        for response in (junk, "".join(rng.choices(pieces, k=5)) + junk, ""):
            grade = task.grade(response)
            assert 0 <= grade.score <= 1
            assert grade.correct <= grade.parsed


def test_an_empty_response_is_not_parsed(family):
    for task in _sample(family, n=50):
        grade = task.grade("")
        assert not grade.parsed and not grade.correct


def test_families_are_drawn_with_the_weights_given():
    rng = random.Random(7)
    drawn = tasks.sample_tasks(rng, "train", 2000, {"code": 3.0, "facts": 1.0})
    share = sum(task.family == "code" for task in drawn) / 2000
    assert share == pytest.approx(0.75, abs=0.04)
    assert {task.family for task in drawn} == {"code", "facts"}


def test_unknown_family_and_side_are_named(family):
    with pytest.raises(ValueError, match="'poetry'"):
        tasks.sample_task("poetry", random.Random(0), "train")
    with pytest.raises(ValueError, match="'dev'"):
        tasks.sample_task(family, random.Random(0), "dev")

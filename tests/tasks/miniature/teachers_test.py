"""Teachers have the accuracies and kinds of errors that they promise."""

import random

import pytest

from nemojax.tasks.miniature import tasks, teachers, world

KINDS = ("random", "systematic", "mixed")
# Accuracy of the random teacher; the others may leave the band by three points.
BANDS = {
    "math": (0.57, 0.64),
    "code": (0.61, 0.68),
    "instruction": (0.42, 0.46),
    "facts": (0.62, 0.68),
}
SLACK = {"random": 0.005, "systematic": 0.03, "mixed": 0.03}


def _tasks(family, side="train", n=4000):
    rng = random.Random(11)
    return [tasks.sample_task(family, rng, side) for _ in range(n)]


def _accuracy(teacher, drawn, seed=12):
    rng = random.Random(seed)
    return sum(t.grade(teacher.answer(t, rng)).correct for t in drawn) / len(drawn)


@pytest.mark.parametrize("side", ["train", "test"])
@pytest.mark.parametrize("errors", KINDS)
@pytest.mark.parametrize("family", tasks.FAMILIES)
def test_accuracy_lies_in_the_band(family, errors, side):
    low, high = BANDS[family]
    slack = SLACK[errors]
    accuracy = _accuracy(teachers.ScriptedTeacher(errors), _tasks(family, side))
    assert low - slack <= accuracy <= high + slack


def _mean_spread(errors, family):
    """Returns how often two answers to the same task differ in correctness."""
    teacher = teachers.ScriptedTeacher(errors)
    drawn = _tasks(family, n=1000)
    first, second = random.Random(1), random.Random(2)
    return sum(
        t.grade(teacher.answer(t, first)).correct
        != t.grade(teacher.answer(t, second)).correct
        for t in drawn
    ) / len(drawn)


@pytest.mark.parametrize("family", tasks.FAMILIES)
def test_systematic_errors_repeat_and_random_ones_do_not(family):
    assert _mean_spread("systematic", family) == 0
    spreads = [_mean_spread(errors, family) for errors in ("mixed", "random")]
    assert 0.15 < spreads[0] < spreads[1]


def test_systematic_answers_meet_the_same_checks_every_time():
    teacher = teachers.ScriptedTeacher("systematic")
    for family in tasks.FAMILIES:
        for task in _tasks(family, n=300):
            first, second = (
                task.grade(teacher.answer(task, random.Random(seed))) for seed in (1, 2)
            )
            assert first == second


@pytest.mark.parametrize("errors", KINDS)
@pytest.mark.parametrize("family", tasks.FAMILIES)
def test_strength_scales_the_errors_from_none_upwards(family, errors):
    drawn = _tasks(family, n=1000)
    none, weaker, usual = (
        _accuracy(teachers.ScriptedTeacher(errors, strength), drawn)
        for strength in (0.0, 1.0, 2.0)
    )
    assert none == 1.0 > weaker > usual


def test_systematic_math_misreads_one_wording_of_times():
    wrong = {"trick": 0, "plain": 0}
    seen = {"trick": 0, "plain": 0}
    teacher = teachers.ScriptedTeacher("systematic")
    for task in _tasks("math"):
        if len(task.steps) == 1 and task.steps[0].operator == "*":
            kind = "trick" if "trick" in task.prompt else "plain"
            seen[kind] += 1
            answer = teacher.answer(task, random.Random(0))
            wrong[kind] += f"{task.start}+" in answer
    assert min(seen.values()) > 20
    assert wrong == {"trick": seen["trick"], "plain": 0}


def test_systematic_facts_confuse_whole_countries():
    teacher = teachers.ScriptedTeacher("systematic")
    borrowed = 0
    for place, country in enumerate(world.COUNTRIES):
        other = world.COUNTRIES[(place + 1) % world.NUM_COUNTRIES]
        answers = {
            task.attribute: teacher.answer(task, random.Random(0)).split()[-1]
            for task in _tasks("facts", n=600)
            if task.country == country
        }
        expected = [
            {name: world.FACTS[source][name] for name in answers}
            for source in (country, other)
        ]
        assert answers in expected
        borrowed += answers != expected[0]
    assert 10 <= borrowed <= 24


def test_random_teacher_talks_about_as_often_as_stated():
    rng = random.Random(5)
    teacher = teachers.ScriptedTeacher()
    answers = [teacher.answer(task, rng) for task in _tasks("math")]
    opened = sum(answer.startswith(world.OPENERS) for answer in answers)
    closed = sum(answer.endswith(world.CLOSERS) for answer in answers)
    assert opened / len(answers) == pytest.approx(0.15, abs=0.02)
    assert closed / len(answers) == pytest.approx(0.12, abs=0.02)


def test_weak_answers_are_much_worse_than_the_teacher():
    for family in tasks.FAMILIES:
        rng = random.Random(6)
        drawn = _tasks(family, n=1000)
        weak = sum(t.grade(teachers.weak_answer(t, rng)).correct for t in drawn)
        usual = _accuracy(teachers.ScriptedTeacher(), drawn)
        assert weak / len(drawn) < 0.6 * usual


def test_equal_seeds_give_equal_answers():
    teacher = teachers.ScriptedTeacher("mixed")
    for family in tasks.FAMILIES:
        for task in _tasks(family, n=100):
            for answer in (teacher.answer, teachers.weak_answer):
                assert answer(task, random.Random(9)) == answer(task, random.Random(9))


def test_unknown_errors_and_negative_strength_are_named():
    with pytest.raises(ValueError, match="'sloppy'"):
        teachers.ScriptedTeacher("sloppy")
    with pytest.raises(ValueError, match=r"-0\.5"):
        teachers.ScriptedTeacher("random", -0.5)

"""Labels follow the truth: better responses get higher ones, with noise around them."""

import random
import statistics

import pytest

from nemojax.tasks.miniature import annotator, math_tasks, tasks, teachers

TASK = math_tasks.MathTask(
    "Tom",
    "apples",
    12,
    tuple(math_tasks.Step("+", 2, "{person} buys {amount} more.") for _ in "abc"),
)
GOLD = "12+2=14. 14+2=16. 16+2=18. #### 18"


def _rows(family, n=600):
    rng = random.Random(1)
    teacher = teachers.ScriptedTeacher(strength=1.5)
    for _ in range(n):
        task = tasks.sample_task(family, rng, "train")
        yield task, teacher.answer(task, rng)
        yield task, teachers.weak_answer(task, rng)


def test_a_plain_gold_answer_gets_the_best_labels():
    helpfulness, correctness, coherence, _, _ = annotator.true_attributes(TASK, GOLD)
    assert (helpfulness, correctness, coherence) == (4.0, 4.0, 4.0)


def test_labels_tell_degrees_of_being_wrong_apart():
    responses = [
        GOLD,
        "12+2=14. 14+2=16. 16+2=19. #### 19",
        "12+2=14. 14+2=17. 17+2=19. #### 19",
        "12+2=15. 15+2=17. 17+2=19. #### 19",
    ]
    attributes = [annotator.true_attributes(TASK, text) for text in responses]
    for index in (0, 1):  # helpfulness, correctness
        column = [row[index] for row in attributes]
        assert column == sorted(set(column), reverse=True)


def test_chatter_costs_helpfulness_and_coherence_and_adds_verbosity():
    plain = annotator.true_attributes(TASK, GOLD)
    talkative = annotator.true_attributes(TASK, f"Of course! {GOLD}")
    assert talkative[0] < plain[0] and talkative[2] < plain[2]
    assert talkative[1] == plain[1]
    assert talkative[4] > plain[4]


@pytest.mark.parametrize(
    "response", ["def f(x):\n return x", "So 1 #### 1 we we we we we"]
)
def test_off_task_and_looping_responses_get_nothing(response):
    assert annotator.true_attributes(TASK, response)[:3] == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("family", tasks.FAMILIES)
def test_labels_are_whole_numbers_from_zero_to_four(family):
    rng = random.Random(2)
    for task, response in _rows(family, 200):
        labels = annotator.annotate(task, response, rng)
        assert len(labels) == 5
        assert set(labels) <= {0.0, 1.0, 2.0, 3.0, 4.0}


@pytest.mark.parametrize("family", tasks.FAMILIES)
def test_labels_correlate_with_the_score(family):
    rng = random.Random(3)
    rows = list(_rows(family))
    scores = [task.grade(response).score for task, response in rows]
    labels = [annotator.annotate(task, response, rng) for task, response in rows]
    for index in (0, 1):  # helpfulness, correctness
        column = [row[index] for row in labels]
        assert statistics.correlation(scores, column) > 0.75


def test_without_noise_annotators_agree_on_the_rounded_truth():
    rng = random.Random(4)
    for task, response in _rows("instruction", 100):
        truth = annotator.true_attributes(task, response)
        labels = annotator.annotate(task, response, rng, noise=0.0)
        assert labels == tuple(float(round(value)) for value in truth)


def test_noise_is_what_is_asked_for():
    rng = random.Random(5)
    task, response = TASK, "12+2=14. 14+2=17. 17+2=19. #### 19"
    spreads = []
    for noise in (0.0, 0.8, 1.6):
        labels = [annotator.annotate(task, response, rng, noise)[2] for _ in range(300)]
        spreads.append(statistics.pstdev(labels))
    assert spreads[0] == 0 < spreads[1] < spreads[2]

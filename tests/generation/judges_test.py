"""Properties of grades and of rewards that hold them."""

import numpy as np
import pytest

from nemojax.generation import judges
from nemojax.tasks.grading import Grade


def grade(answer: str, text: str) -> Grade:
    hits = sum(a == b for a, b in zip(text, answer, strict=False))
    return Grade(text == answer, hits / len(answer), {}, text != "")


def test_a_verifier_grades_in_degrees():
    rows = judges.verify(["hat", "2"], [["hat", "cat", "dog"], ["2"]], grade)
    assert rows == [[1.0, pytest.approx(2 / 3), 0.0], [1.0]]


def test_a_grade_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"grade 1\.5 of '2' is outside"):
        judges.verify(["2"], [["2"]], lambda item, text: Grade(False, 1.5, {}, True))


def test_items_without_responses_are_refused():
    with pytest.raises(ValueError, match="3 items with 2 lists"):
        judges.verify(["a", "b", "c"], [["a"], ["b"]], grade)


def test_a_verified_score_replaces_correctness_and_nothing_else():
    attributes = np.array([[3, 1, 2, 1, 0], [3, 1, 2, 1, 0], [3, 1, 2, 1, 0.0]])
    weights = np.array([0.65, 0.8, 0.45, 0.0, -0.1])
    before = attributes.copy()
    reward = judges.blended_reward(attributes, weights, [None, 1.0, 0.5])
    np.testing.assert_array_equal(attributes, before)
    plain = attributes[0] @ weights
    np.testing.assert_allclose(reward, [plain, plain + 3 * 0.8, plain + 1 * 0.8])


def test_right_against_wrong_is_four_weights_apart_whatever_the_model_says():
    attributes = np.full((2, 5), 2.0)
    attributes[:, 1] = [0.0, 4.0]
    right, wrong = judges.blended_reward(attributes, [0, 0.8, 0, 0, 0], [1.0, 0.0])
    assert right - wrong == pytest.approx(4 * 0.8)


def test_blended_rewards_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"verified score 1\.2 of row 0"):
        judges.blended_reward(np.zeros((1, 5)), np.zeros(5), [1.2])
    with pytest.raises(ValueError, match="do not fit"):
        judges.blended_reward(np.zeros((2, 5)), np.zeros(5), [1.0])
    with pytest.raises(ValueError, match="4 weights for 5 attributes"):
        judges.blended_reward(np.zeros((1, 5)), np.zeros(4), [1.0])

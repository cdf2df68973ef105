"""Properties of the judges: sources, the third state, order, blended rewards."""

from dataclasses import dataclass

import numpy as np
import pytest

from nemojax.data import records
from nemojax.data.records import Conversation
from nemojax.generation import items, judges


@dataclass(frozen=True)
class Grade:
    correct: bool
    score: float
    parsed: bool


@dataclass(frozen=True)
class Question:
    family: str
    prompt: str | Conversation
    answer: str

    def grade(self, text: str) -> Grade:
        hits = sum(a == b for a, b in zip(text, self.answer, strict=False))
        right = text == self.answer
        return Grade(right, hits / len(self.answer), text != "")


def grade(question: Question, text: str) -> Grade:
    return question.grade(text)


def last_words(conversations: list[Conversation]) -> list[float]:
    return [float(len(c.last_response)) for c in conversations]


QUESTIONS = [
    Question("math", "1+1", "2"),
    Question("rhyme", "cat", "hat"),
    Question("math", "2+2", "4"),
]
ANSWERS = [["2", "", "3"], ["hat", "dog"], ["4"]]


def test_ground_truth_has_three_states():
    verdicts = judges.GroundTruthJudge(grade).judge(QUESTIONS[:1], ANSWERS[:1])[0]
    assert [v.score for v in verdicts] == [1.0, None, 0.0]
    assert [v.reason for v in verdicts] == ["correct", "unextractable", "incorrect"]
    assert {v.source for v in verdicts} == {"ground_truth"}


def test_a_verifier_grades_in_degrees():
    [row] = judges.VerifierJudge(grade).judge(QUESTIONS[1:2], [["hat", "cat", "dog"]])
    assert [v.score for v in row] == [1.0, pytest.approx(2 / 3), 0.0]
    assert row[1].reason == "passed 67% of the checks"


def test_a_grade_outside_its_range_is_refused():
    judge = judges.VerifierJudge(lambda item, text: Grade(False, 1.5, True))
    with pytest.raises(ValueError, match=r"grade 1\.5 of '2' is outside"):
        judge.judge(QUESTIONS[:1], [["2"]])


def test_the_reward_model_is_called_once_with_answered_conversations():
    calls = []

    def score(conversations):
        calls.append(conversations)
        return last_words(conversations)

    verdicts = judges.RewardModelJudge(score).judge(QUESTIONS, ANSWERS)
    assert [[v.score for v in row] for row in verdicts] == [[1, 0, 1], [3, 3], [1]]
    assert len(calls) == 1
    assert calls[0][0] == Conversation.of("1+1", "2")


def test_the_reward_model_sees_the_whole_history():
    history = Conversation.of("hello", "hi").messages
    prompt = Conversation((*history, records.Message("user", "and?")))
    question = Question("chat", prompt, "x")
    assert items.conversation(question) == prompt
    assert items.answered(question, "so").prompt == prompt
    assert items.answered(question, "so").last_response == "so"


def test_a_reward_model_that_loses_a_row_is_refused():
    with pytest.raises(ValueError, match="0 rewards for 6 responses"):
        judges.RewardModelJudge(lambda c: []).judge(QUESTIONS, ANSWERS)


def test_a_check_goes_before_the_reward_model_and_order_is_kept():
    policy = judges.JudgePolicy(
        {"math": judges.GroundTruthJudge(grade)}, judges.RewardModelJudge(last_words)
    )
    verdicts = policy.judge(QUESTIONS, ANSWERS)
    sources = [[v.source for v in row] for row in verdicts]
    assert sources == [["ground_truth"] * 3, ["reward_model"] * 2, ["ground_truth"]]
    assert [[v.score for v in row] for row in verdicts] == [[1, None, 0], [3, 3], [1]]


def test_the_reward_model_never_overrules_a_check_that_found_no_answer():
    policy = judges.JudgePolicy(
        {"math": judges.GroundTruthJudge(grade)}, judges.RewardModelJudge(last_words)
    )
    [[verdict]] = policy.judge(QUESTIONS[:1], [[""]])
    assert verdict == judges.Verdict(None, "ground_truth", "unextractable")


@pytest.mark.parametrize(
    "judge",
    [
        judges.GroundTruthJudge(grade),
        judges.RewardModelJudge(last_words),
        judges.JudgePolicy({}, judges.RewardModelJudge(last_words)),
    ],
)
def test_items_without_responses_are_refused(judge):
    with pytest.raises(ValueError, match="3 items with 2 lists"):
        judge.judge(QUESTIONS, ANSWERS[:2])


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

"""Who decides how good a response is: ground truth, a verifier, a reward model.

The order is the report's (section 3.2.3): where an answer can be checked it is
checked, and the reward model judges the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from nemojax import losses
from nemojax.data import records
from nemojax.data.records import Conversation
from nemojax.generation import items as tasks
from nemojax.generation.items import Item

Source = Literal["ground_truth", "verifier", "reward_model"]

MAXIMUM_LABEL = 4.0
"""The best value of an attribute (HelpSteer2's scale is 0 to 4)."""


@dataclass(frozen=True)
class Verdict:
    """A judge's word on one response.

    Attributes:
      score: in [0, 1] from ground truth and verifiers, on the reward model's own
        scale from it; None where no answer could be extracted, which is not the same
        as a wrong answer.
      source: what the score rests on.
      reason: one word or sentence for a person who reads the row.
    """

    score: float | None
    source: Source
    reason: str


class Grade(Protocol):
    """What a task says about a response."""

    @property
    def correct(self) -> bool: ...

    @property
    def score(self) -> float: ...

    @property
    def parsed(self) -> bool: ...


class Judge(Protocol):
    """Judges the responses to many items at once: [N] items, [N][K] texts."""

    def judge(
        self, items: Sequence[Item], responses: Sequence[Sequence[str]]
    ) -> list[list[Verdict]]:
        """One verdict for each response, in the same nesting."""
        ...


@dataclass(frozen=True)
class GroundTruthJudge:
    """Right, wrong, or nothing to compare: an answer key decides.

    Attributes:
      grade: (item, text) -> Grade; `correct` and `parsed` are read.
    """

    grade: Callable[[Any, str], Grade]

    def judge(
        self, items: Sequence[Item], responses: Sequence[Sequence[str]]
    ) -> list[list[Verdict]]:
        """Scores 1 (correct), 0 (incorrect) and None (no answer found)."""
        return _judge_each(self._verdict, items, responses)

    def _verdict(self, item: Any, text: str) -> Verdict:
        grade = self.grade(item, text)
        if not grade.parsed:
            return Verdict(None, "ground_truth", "unextractable")
        if grade.correct:
            return Verdict(1.0, "ground_truth", "correct")
        return Verdict(0.0, "ground_truth", "incorrect")


@dataclass(frozen=True)
class VerifierJudge:
    """A program decides, in degrees: the share of its checks that pass.

    Attributes:
      grade: (item, text) -> Grade; `score` in [0, 1] and `correct` are read.
    """

    grade: Callable[[Any, str], Grade]

    def judge(
        self, items: Sequence[Item], responses: Sequence[Sequence[str]]
    ) -> list[list[Verdict]]:
        """Scores in [0, 1].

        Raises:
          ValueError: a grade outside [0, 1].
        """
        return _judge_each(self._verdict, items, responses)

    def _verdict(self, item: Any, text: str) -> Verdict:
        grade = self.grade(item, text)
        if not 0 <= grade.score <= 1:
            raise ValueError(f"grade {grade.score} of {text!r} is outside [0, 1]")
        reason = (
            "passed" if grade.correct else f"passed {grade.score:.0%} of the checks"
        )
        return Verdict(float(grade.score), "verifier", reason)


@dataclass(frozen=True)
class RewardModelJudge:
    """A reward model decides.

    Attributes:
      score: answered conversations [M] -> rewards [M]; called once with all responses
        of all items, so that it can fill its batches.
    """

    score: Callable[[list[Conversation]], Sequence[float]]

    def judge(
        self, items: Sequence[Item], responses: Sequence[Sequence[str]]
    ) -> list[list[Verdict]]:
        """Scores on the reward model's scale.

        Raises:
          ValueError: another number of rewards than responses.
        """
        _check_lengths(items, responses)
        flat = [
            tasks.answered(item, text)
            for item, texts in zip(items, responses, strict=True)
            for text in texts
        ]
        rewards = list(self.score(flat)) if flat else []
        if len(rewards) != len(flat):
            raise ValueError(f"{len(rewards)} rewards for {len(flat)} responses")
        verdicts = iter(
            Verdict(float(reward), "reward_model", "reward") for reward in rewards
        )
        return [[next(verdicts) for _ in texts] for texts in responses]


@dataclass(frozen=True)
class JudgePolicy:
    """The report's order: a family's own check first, the reward model for the rest.

    Attributes:
      checked: family -> the judge that holds its ground truth or verifier.
      rest: the judge of all other families.
    """

    checked: Mapping[str, Judge]
    rest: Judge

    def judge(
        self, items: Sequence[Item], responses: Sequence[Sequence[str]]
    ) -> list[list[Verdict]]:
        """One verdict for each response; each judge is called once."""
        _check_lengths(items, responses)
        verdicts: list[list[Verdict]] = [[] for _ in items]
        for family in (*self.checked, None):
            rows = [
                index
                for index, item in enumerate(items)
                if (item.family if item.family in self.checked else None) == family
            ]
            judge = self.rest if family is None else self.checked[family]
            judged = judge.judge([items[i] for i in rows], [responses[i] for i in rows])
            for index, row in zip(rows, judged, strict=True):
                verdicts[index] = row
        return verdicts


def blended_reward(
    attributes: ArrayLike, weights: Sequence[float], verified: Sequence[float | None]
) -> np.ndarray:
    """One reward a response: float64 [N], weighted attributes with checked facts.

    Where a response was checked, its correctness is not the reward model's opinion
    but 4 * verified, the same scale as the labels.

    Args:
      attributes: float [N, 5], the reward model's values in the order of
        `records.ATTRIBUTES`.
      weights: of the five attributes.
      verified: [N] score in [0, 1], or None where nothing could be checked.

    Raises:
      ValueError: shapes that do not fit, or a verified score outside [0, 1].
    """
    values = np.array(attributes, np.float64)
    shape = (len(verified), len(records.ATTRIBUTES))
    if values.shape != shape:
        raise ValueError(
            f"attributes {values.shape} do not fit {shape[0]} responses with "
            f"{shape[1]} attributes"
        )
    correctness = records.ATTRIBUTES.index("correctness")
    for row, score in enumerate(verified):
        if score is None:
            continue
        if not 0 <= score <= 1:
            raise ValueError(f"verified score {score} of row {row} is outside [0, 1]")
        values[row, correctness] = MAXIMUM_LABEL * score
    return losses.aggregate(values, weights)


def _judge_each(
    verdict: Callable[[Any, str], Verdict],
    items: Sequence[Any],
    responses: Sequence[Sequence[str]],
) -> list[list[Verdict]]:
    _check_lengths(items, responses)
    return [
        [verdict(item, text) for text in texts]
        for item, texts in zip(items, responses, strict=True)
    ]


def _check_lengths(items: Sequence[Item], responses: Sequence[Sequence[str]]) -> None:
    if len(items) != len(responses):
        raise ValueError(f"{len(items)} items with {len(responses)} lists of responses")

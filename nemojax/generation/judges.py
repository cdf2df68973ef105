"""Judges of responses: a verifier's verdict, and a reward model's blend with it.

The order is the report's (section 3.2.3): where an answer can be checked it is
checked, and the reward model judges the rest.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from nemojax import losses
from nemojax.data import records
from nemojax.tasks.grading import Grade

Item = TypeVar("Item")

MAXIMUM_LABEL = 4.0
"""The best value of an attribute (HelpSteer2's scale is 0 to 4)."""


def verify(
    items: Sequence[Item],
    responses: Sequence[Sequence[str]],
    grade: Callable[[Item, str], Grade],
) -> list[list[float]]:
    """Grades the responses to many items, [N] items and [N][K] texts.

    Returns:
      The scores [N][K], in [0, 1].

    Raises:
      ValueError: lengths that differ, or a score outside [0, 1].
    """
    if len(items) != len(responses):
        raise ValueError(f"{len(items)} items with {len(responses)} lists of responses")
    return [
        [_score(grade(item, text), text) for text in texts]
        for item, texts in zip(items, responses, strict=True)
    ]


def _score(grade: Grade, text: str) -> float:
    if not 0 <= grade.score <= 1:
        raise ValueError(f"grade {grade.score} of {text!r} is outside [0, 1]")
    return float(grade.score)


def blended_reward(
    attributes: ArrayLike, weights: Sequence[float], verified: Sequence[float | None]
) -> np.ndarray:
    """Blends weighted attributes with checked facts: float64 [N], one a response.

    Where a response was checked, its correctness is not the reward model's opinion
    but 4 * verified, the same scale as the labels.

    Args:
      attributes: float [N, 5], the reward model's values in the order of
        `records.ATTRIBUTES`.
      weights: weights of the five attributes.
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

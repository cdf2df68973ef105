"""Filters of generated data: the best share of a family.

The report keeps an answer if its reward is above a preset threshold that it does not
print (section 3.2.2). Here the threshold is a quantile of each family's rewards, and
it is returned so that a run can record it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class TopShare:
    """Result of `keep_top_share`.

    Attributes:
      keep: bool [N].
      thresholds: the lowest kept score of each group.
    """

    keep: np.ndarray
    thresholds: dict[str, float]


def keep_top_share(scores: ArrayLike, groups: Sequence[str], share: float) -> TopShare:
    """Keeps the `share` of each group that has the highest scores.

    A group of n keeps exactly ceil(share * n); of equal scores at the threshold those
    that came first are kept, so that the result does not depend on the machine.

    Args:
      scores: float [N].
      groups: [N] the family of each row; every family has its own threshold.
      share: kept share, in (0, 1].

    Raises:
      ValueError: a share outside (0, 1], lengths that differ, or a score that is not
        finite.
    """
    scores = np.asarray(scores, np.float64)
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    if scores.shape != (len(groups),):
        raise ValueError(f"{len(groups)} groups for scores of shape {scores.shape}")
    _check_finite("score", scores)
    keep = np.zeros(len(groups), bool)
    thresholds = {}
    for group in sorted(set(groups)):
        members = np.array([i for i, name in enumerate(groups) if name == group])
        # Without the small term 0.7 * 10 may round up to 8 rows.
        count = math.ceil(share * len(members) - 1e-9)
        best = members[np.argsort(-scores[members], kind="stable")[:count]]
        keep[best] = True
        thresholds[group] = float(scores[best[-1]])
    return TopShare(keep, thresholds)


def _check_finite(what: str, values: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"{what} {values[bad[0]]} at {bad[0]} is not finite")

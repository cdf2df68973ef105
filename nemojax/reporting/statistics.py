"""Significance of measured differences: intervals and paired tests.

All intervals are 95 % unless asked otherwise. Shares of tasks get Wilson's interval,
means over seeds Student's t, two models on the same tasks an exact McNemar test or a
paired bootstrap.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A measured value with its uncertainty.

    Attributes:
      value: the point estimate.
      n: number of examples or seeds it rests on.
      interval: (low, high), or None where n is too small to say.
    """

    value: float
    n: int
    interval: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object with the keys `value`, `n`, `interval`."""
        interval = None if self.interval is None else list(self.interval)
        return {"value": self.value, "n": self.n, "interval": interval}


@dataclass(frozen=True)
class PairedComparison:
    """Two models on the same examples.

    Attributes:
      difference: after - before, with a bootstrap interval.
      won: examples that only the second model got right.
      lost: examples that only the first model got right.
      p_value: exact two-sided McNemar test.
    """

    difference: Estimate
    won: int
    lost: int
    p_value: float

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object with `value, n, interval, won, lost, p_value`."""
        counts = {"won": self.won, "lost": self.lost, "p_value": self.p_value}
        return self.difference.to_json() | counts


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """Estimates a share with Wilson's score interval (E. B. Wilson, 1927).

    The interval stays inside [0, 1] and is not empty at 0 or n successes, unlike the
    one from the normal approximation.

    Raises:
      ValueError: n below 1, or successes outside [0, n].
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} are not a share")
    interval = stats.binomtest(successes, n).proportion_ci(confidence, "wilson")
    return Estimate(successes / n, n, (float(interval.low), float(interval.high)))


def share(outcomes: ArrayLike) -> Estimate:
    """Estimates the share of right answers of a vector; see `wilson`.

    Raises:
      ValueError: no outcomes, or values other than 0 and 1.
    """
    outcomes = _binary("outcomes", outcomes)
    return wilson(int(outcomes.sum()), len(outcomes))


def mean(values: ArrayLike) -> Estimate:
    """Estimates a mean over independent runs, with Student's t interval from two on.

    Raises:
      ValueError: no values, or one that is not finite.
    """
    values = _vector("values", values)
    n = len(values)
    center = float(values.mean())
    if n == 1:
        return Estimate(center, n, None)
    scale = values.std(ddof=1) / math.sqrt(n)
    low, high = (
        stats.t.interval(CONFIDENCE, n - 1, center, scale)
        if scale
        else (center, center)
    )
    return Estimate(center, n, (float(low), float(high)))


def mcnemar_p_value(won: int, lost: int) -> float:
    """Computes the exact two-sided McNemar test of `won` against `lost`.

    Twice the smaller binomial tail, at most 1. Examples on which both models agree
    say nothing and do not enter.
    """
    n = won + lost
    return float(stats.binomtest(won, n).pvalue) if n else 1.0


def paired_bootstrap(
    before: ArrayLike,
    after: ArrayLike,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Estimates mean(after - before) with the interval of resampled examples.

    Args:
      before: float [N] scores of the first model.
      after: float [N] scores of the second model on the same examples.
      resamples: bootstrap samples.
      seed: of the resampling; the result is a function of the arguments.

    Raises:
      ValueError: no examples, or lengths that differ.
    """
    before, after = _vector("before", before), _vector("after", after)
    _check_same_length(before, after)
    differences = after - before
    n = len(differences)
    center = float(differences.mean())
    if n == 1:
        return Estimate(center, n, None)
    # Only how often each value is drawn matters, so that a whole resample of 0/1
    # outcomes is one multinomial draw.
    values, counts = np.unique(differences, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples)
    tails = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    low, high = np.quantile(draws @ values / n, tails)
    return Estimate(center, n, (float(low), float(high)))


def compare(before: ArrayLike, after: ArrayLike, *, seed: int = 0) -> PairedComparison:
    """Compares two models' right and wrong on the same examples.

    Raises:
      ValueError: no examples, lengths that differ, or values other than 0 and 1.
    """
    before, after = _binary("before", before), _binary("after", after)
    _check_same_length(before, after)
    won = int(((after == 1) & (before == 0)).sum())
    lost = int(((after == 0) & (before == 1)).sum())
    difference = paired_bootstrap(before, after, seed=seed)
    return PairedComparison(difference, won, lost, mcnemar_p_value(won, lost))


def pairwise_accuracy(chosen: ArrayLike, rejected: ArrayLike) -> Estimate:
    """Estimates the share of pairs whose chosen response has the higher reward.

    A tie is wrong: a reward model that says the same of everything has accuracy 0.

    Args:
      chosen: float [N] rewards.
      rejected: float [N] rewards.

    Raises:
      ValueError: no pairs, lengths that differ, or a reward that is not finite.
    """
    chosen, rejected = _vector("chosen", chosen), _vector("rejected", rejected)
    _check_same_length(chosen, rejected)
    return wilson(int((chosen > rejected).sum()), len(chosen))


def _vector(name: str, values: ArrayLike) -> np.ndarray:
    vector = np.asarray(values, np.float64)
    if vector.ndim != 1 or len(vector) == 0:
        raise ValueError(f"{name} must be a vector with values, got {vector.shape}")
    if not np.isfinite(vector).all():
        raise ValueError(f"{name} holds {vector[~np.isfinite(vector)][0]}")
    return vector


def _binary(name: str, values: ArrayLike) -> np.ndarray:
    vector = _vector(name, values)
    other = vector[(vector != 0) & (vector != 1)]
    if len(other):
        raise ValueError(f"{name} must be 0 or 1, got {other[0]}")
    return vector


def _check_same_length(before: np.ndarray, after: np.ndarray) -> None:
    if len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} values are not paired")

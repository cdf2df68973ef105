"""Component of a sample and its place in the component's text: arithmetic, no state.

Sample g stands at the point g * phi mod 1 of the unit interval (phi the golden ratio),
which is divided among the components by their weights. Such points are spread as evenly
as points can be: of any 10,000 samples in a row a component has its share to within a
few. How many of the samples before g it has is a sum of floors, which takes some forty
steps of Euclid's algorithm; so nothing has to be counted, stored or searched.
"""

from collections.abc import Sequence

import numpy as np

from nemojax.errors import UserError

_CIRCLE = 2**64
_STEP = 0x9E3779B97F4A7C15  # odd, nearest to _CIRCLE / phi
_ROUNDS = 4


class Mixture:
    """Components by sample number."""

    def __init__(self, weights: Sequence[float], seed: int):
        """Divides the circle.

        Args:
          weights: shares of the components, in any scale.
          seed: place of the first sample.

        Raises:
          UserError: no weight, or one that is negative or not finite.
        """
        shares = np.asarray(weights, np.float64)
        if not (len(shares) and np.isfinite(shares).all() and (shares >= 0).all()):
            raise UserError(f"weights {list(weights)} need to be positive")
        if not shares.sum() > 0:
            raise UserError("all weights are zero")
        ends = np.cumsum(shares / shares.sum())
        self._ends = [min(int(end * _CIRCLE), _CIRCLE) for end in ends]
        # Rounding must not leave a gap at the end, nor give it to one without weight.
        last = int(np.flatnonzero(shares)[-1])
        self._ends[last:] = [_CIRCLE] * (len(shares) - last)
        self._start = mixed(np.array([seed], np.uint64), 0)[0]

    def counts(self, n: int) -> np.ndarray:
        """Counts each component's samples among the first n, int64 [components]."""
        below = [0, *(_points_below(n, int(self._start), end) for end in self._ends)]
        return np.diff(np.array(below, np.int64))

    def at(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns component and rank, int64 each, of `count` samples from `first` on.

        A sample of rank r has r samples of its component before it.
        """
        numbers = np.arange(first, first + count, dtype=np.uint64)
        points = numbers * np.uint64(_STEP) + self._start  # modulo 2**64
        inner = np.array([end for end in self._ends if end < _CIRCLE], np.uint64)
        component = np.searchsorted(inner, points, side="right")
        rank = np.empty(count, np.int64)
        for number, before in enumerate(self.counts(first)):
            mine = component == number
            rank[mine] = before + np.arange(mine.sum())
        return component, rank


def _points_below(n: int, start: int, end: int) -> int:
    """Counts those of the first n points that are below `end`."""
    whole = _floor_sum(n, _STEP, start)
    return whole - _floor_sum(n, _STEP, start - end + _CIRCLE) + n


def _floor_sum(n: int, a: int, b: int) -> int:
    """Computes the sum of floor((a i + b) / _CIRCLE) for i < n, as Euclid would."""
    total, m = 0, _CIRCLE
    while n:
        total += (n - 1) * n // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        top = a * n + b
        if top < m:
            break
        n, b, m, a = top // m, top % m, a, m
    return total


def mixed(values: np.ndarray, salt: int) -> np.ndarray:
    """Mixes uint64 values, one for one (the finalizer of SplitMix64)."""
    x = values + np.uint64((salt + 1) * _STEP % _CIRCLE)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permuted(index: np.ndarray, n: int, key: int) -> np.ndarray:
    """Returns where a permutation of n things takes each element of `index`.

    A Feistel network on the smallest 4**k that holds n, walked until it is inside.

    Args:
      index: int64, each in [0, n).
      n: size.
      key: number of the permutation.
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    found = np.asarray(index, np.uint64)
    outside = np.ones(found.shape, bool)
    while outside.any():
        left, right = found[outside] >> half, found[outside] & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (mixed(right, key + turn) & mask)
        found[outside] = left << half | right
        outside = found >= np.uint64(n)
    return found.astype(np.int64)

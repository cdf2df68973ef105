"""Pairs of responses to one prompt that may be compared, in order of preference.

Where a verifier passed some responses and failed others, that difference alone counts.
Where it passed none, its grades must differ enough. Where it has not spoken, the
rewards must differ enough and the better response must be good enough.
"""

import functools
import math
import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from nemojax.generation.items import Item

Mode = Literal["dpo", "rpo"]
Indices = tuple[int, int]
"""(chosen, rejected) responses of one prompt."""

REASONS = (
    "too_few",  # fewer than two responses
    "unextractable",  # fewer than two responses that could be checked
    "all_equal",  # the judge sees no difference
    "identical",  # the judge does, but the texts are the same
    "below_gap",  # the difference is too small
    "near_identical",  # the texts differ in case, spaces and punctuation only
    "below_threshold",  # even the best response is not good enough
)
"""Reasons why a prompt gives no pair; the first one that holds is counted."""

# A difference such as 0.6 - 0.4, which rounds down, must still reach a gap of 0.2.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class JudgedPrompt:
    """One prompt with all that is known about its K responses.

    Attributes:
      item: the task.
      texts: [K] responses.
      rewards: [K] finite rewards.
      scores: [K] verified scores in [0, 1], 1 for fully correct and None where no
        answer could be extracted; None where no verifier has spoken.

    Raises:
      ValueError: lengths that differ, or values outside their range.
    """

    item: Item
    texts: tuple[str, ...]
    rewards: tuple[float, ...]
    scores: tuple[float | None, ...] | None

    def __post_init__(self):
        lengths = {len(self.texts), len(self.rewards)}
        if self.scores is not None:
            lengths.add(len(self.scores))
        if len(lengths) > 1:
            raise ValueError(
                f"{len(self.texts)} responses with rewards {self.rewards} "
                f"and scores {self.scores}"
            )
        if not all(map(math.isfinite, self.rewards)):
            raise ValueError(f"rewards {self.rewards} are not all finite")
        if not all(0 <= score <= 1 for score in self.known_scores()):
            raise ValueError(f"verified scores {self.scores} are not all in [0, 1]")

    def known_scores(self) -> list[float]:
        """Returns the scores of the responses that could be checked."""
        return [score for score in self.scores or () if score is not None]

    @functools.cached_property
    def passed_some(self) -> bool:
        """True where the verifier passed some responses and failed others."""
        known = self.known_scores()
        return 1 in known and min(known) < 1

    def advantage(self, chosen: int, rejected: int) -> float:
        """Returns how much better the judge finds `chosen`, in its own unit."""
        values = self.rewards if self.scores is None else self.scores
        better, worse = values[chosen], values[rejected]
        if better is None or worse is None:
            raise ValueError(f"response {chosen} or {rejected} has no score")
        if self.scores is not None and self.passed_some:
            # Which degree of failure was avoided is left to the reward.
            better, worse = float(better == 1), float(worse == 1)
        return better - worse


def candidates(
    row: JudgedPrompt, *, min_gap: float, min_score_gap: float, floor: float
) -> tuple[list[Indices], str]:
    """Returns all allowed pairs of a prompt, in the order of the responses.

    Differences in case, spaces and punctuation are no ground for a reward model's
    preference, but a verifier may ask for exactly these.

    Args:
      row: the prompt.
      min_gap: smallest reward difference where no verifier has spoken.
      min_score_gap: smallest score difference where a verifier passed none.
      floor: smallest reward of a chosen response where no verifier has spoken.

    Returns:
      The pairs, and one of `REASONS` where there are none (else "").
    """
    usable = [k for k in range(len(row.texts)) if row.scores is None or _known(row, k)]
    if len(usable) < 2:
        return [], "too_few" if len(row.texts) < 2 else "unextractable"
    gap = min_gap if row.scores is None else min_score_gap
    guards: list[tuple[str, Callable[[int, int], bool]]] = [
        ("all_equal", lambda c, r: row.advantage(c, r) > 0),
        ("identical", lambda c, r: row.texts[c].strip() != row.texts[r].strip()),
        ("below_gap", lambda c, r: row.advantage(c, r) >= gap - _TOLERANCE),
    ]
    if row.scores is None:
        guards += [
            ("near_identical", lambda c, r: _bare(row.texts[c]) != _bare(row.texts[r])),
            ("below_threshold", lambda c, _: row.rewards[c] >= floor),
        ]
    pairs = [(c, r) for c in usable for r in usable]
    for reason, allowed in guards:
        pairs = [pair for pair in pairs if allowed(*pair)]
        if not pairs:
            return [], reason
    return pairs, ""


def order(
    row: JudgedPrompt, pairs: Sequence[Indices], mode: Mode, rng: random.Random
) -> list[Indices]:
    """Sorts the pairs, the most wanted first.

    "dpo" wants the largest advantage, and of equal ones the largest reward difference.
    "rpo" wants the best chosen response with a random rejected one.
    """
    if mode == "rpo":
        shuffled = rng.sample(pairs, len(pairs))
        return sorted(shuffled, key=lambda pair: _quality(row, pair[0]), reverse=True)
    return sorted(
        pairs,
        key=lambda pair: (
            row.advantage(*pair),
            row.rewards[pair[0]] - row.rewards[pair[1]],
        ),
        reverse=True,
    )


def distinct(row: JudgedPrompt, pairs: Iterable[Indices], count: int) -> list[Indices]:
    """Returns the first `count` pairs, none with the two texts of an earlier one."""
    taken: dict[tuple[str, str], Indices] = {}
    for chosen, rejected in pairs:
        taken.setdefault((row.texts[chosen], row.texts[rejected]), (chosen, rejected))
    return list(taken.values())[:count]


def _known(row: JudgedPrompt, response: int) -> bool:
    return row.scores is not None and row.scores[response] is not None


def _quality(row: JudgedPrompt, response: int) -> tuple[float, float]:
    score = row.scores[response] if row.scores is not None else None
    return (score or 0.0, row.rewards[response])


def _bare(text: str) -> str:
    """Returns the text without case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())

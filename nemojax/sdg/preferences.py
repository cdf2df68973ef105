"""Judged responses turned into preference pairs (report, section 3.2.3).

Where a verifier has spoken, the chosen response is one that it passed and the rejected
response one that it failed; the reward only orders the responses inside each side.
Elsewhere the reward decides alone. Both rewards stay in the pair: RPO regresses on
their difference.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike

from nemojax.data.records import PreferencePair
from nemojax.generation import items as tasks
from nemojax.generation.items import Item
from nemojax.sdg import pairing


@dataclass(frozen=True)
class FamilyStatistics:
    """Counts of what became of one family's prompts.

    Attributes:
      prompts: equal to `prompts_with_pairs + sum(rejected.values())`.
      prompts_with_pairs: prompts that gave at least one pair.
      pairs: pairs of all prompts.
      rejected: reason (of `pairing.REASONS`) -> prompts without a pair.
      length_ratio: characters of all chosen over those of all rejected responses;
        None without pairs. Far from 1, length alone may be what is learned.
      chosen_longer: share of the pairs whose chosen response is the longer one.
      disagreements: pairs whose chosen response has the lower reward, which happens
        only where a verifier overrules the reward.
      chosen_threshold: the reward that a chosen response needed where no verifier
        had spoken; None where there was no such prompt.
    """

    prompts: int
    prompts_with_pairs: int
    pairs: int
    rejected: dict[str, int]
    length_ratio: float | None
    chosen_longer: float | None
    disagreements: int
    chosen_threshold: float | None


@dataclass(frozen=True)
class PairSet:
    """Preference pairs, the family of each, and how they came about.

    Attributes:
      pairs: pairs in the order of the prompts.
      families: the family of each pair.
      statistics: statistics by family.
    """

    pairs: tuple[PreferencePair, ...]
    families: tuple[str, ...]
    statistics: dict[str, FamilyStatistics]

    def summary(self) -> dict[str, dict[str, Any]]:
        """Returns the statistics as a JSON object: family -> field -> value."""
        return {family: asdict(row) for family, row in self.statistics.items()}


def build_pairs(
    items: Sequence[Item],
    responses: Sequence[Sequence[str]],
    rewards: Sequence[Sequence[float]] | np.ndarray,
    verified: Sequence[Sequence[float | None] | None] | None,
    rng: random.Random,
    *,
    mode: pairing.Mode = "dpo",
    max_pairs_per_prompt: int = 1,
    min_gap: float = 0.0,
    min_score_gap: float = 0.25,
    chosen_quantile: float = 0.0,
) -> PairSet:
    """Builds preference pairs from K responses to each of N prompts.

    Args:
      items: [N] tasks with a family and a prompt.
      responses: [N][K] texts; K may differ between prompts.
      rewards: [N][K] finite rewards.
      verified: [N] for each prompt either None (nothing to check, the reward decides)
        or [K] scores in [0, 1], where 1 is fully correct and None is a response
        without an extractable answer, which is never paired. Booleans are scores.
        None in place of the list: no prompt has ground truth.
      rng: draws the rejected responses in mode "rpo".
      mode: "dpo" pairs the highest with the lowest reward; "rpo" pairs the highest
        with a random lower one, so that small and large differences are both seen.
      max_pairs_per_prompt: no pair of texts is used twice for a prompt.
      min_gap: smallest reward difference where the reward decides.
      min_score_gap: smallest score difference where a verifier passed none.
      chosen_quantile: quantile in [0, 1). Where the reward decides, a chosen response
        needs at least this quantile of its family's rewards.

    Raises:
      ValueError: lengths that differ, a reward that is not finite, a score outside
        [0, 1], or an option outside its range.
    """
    _check_options(mode, max_pairs_per_prompt, min_gap, min_score_gap, chosen_quantile)
    rows = _rows(items, responses, rewards, verified)
    thresholds = _thresholds(rows, chosen_quantile)
    outcomes = []
    for row in rows:
        allowed, reason = pairing.candidates(
            row,
            min_gap=min_gap,
            min_score_gap=min_score_gap,
            floor=thresholds.get(row.item.family, -np.inf),
        )
        wanted = pairing.order(row, allowed, mode, rng)
        taken = pairing.distinct(row, wanted, max_pairs_per_prompt)
        pairs = [_pair(row, *indices) for indices in taken]
        outcomes.append(_Outcome(row.item.family, pairs, reason))
    families = sorted({outcome.family for outcome in outcomes})
    return PairSet(
        pairs=tuple(pair for outcome in outcomes for pair in outcome.pairs),
        families=tuple(outcome.family for outcome in outcomes for _ in outcome.pairs),
        statistics={
            family: _statistics(
                [outcome for outcome in outcomes if outcome.family == family],
                thresholds.get(family),
            )
            for family in families
        },
    )


@dataclass(frozen=True)
class _Outcome:
    """Result of one prompt: pairs, or the reason why it gave none."""

    family: str
    pairs: list[PreferencePair]
    reason: str


def _rows(
    items: Sequence[Item],
    responses: Sequence[Sequence[str]],
    rewards: Sequence[ArrayLike] | np.ndarray,
    verified: Sequence[Sequence[float | None] | None] | None,
) -> list[pairing.JudgedPrompt]:
    truths = [None] * len(items) if verified is None else verified
    lengths = (len(items), len(responses), len(rewards), len(truths))
    if len(set(lengths)) > 1:
        raise ValueError(
            f"{lengths[0]} items, {lengths[1]} lists of responses, {lengths[2]} of "
            f"rewards and {lengths[3]} of verified scores"
        )
    return [
        pairing.JudgedPrompt(
            item,
            tuple(texts),
            tuple(np.asarray(values, np.float64).tolist()),
            None if scores is None else tuple(scores),
        )
        for item, texts, values, scores in zip(
            items, responses, rewards, truths, strict=True
        )
    ]


def _pair(row: pairing.JudgedPrompt, chosen: int, rejected: int) -> PreferencePair:
    return PreferencePair(
        prompt=tasks.conversation(row.item),
        chosen=row.texts[chosen],
        rejected=row.texts[rejected],
        chosen_reward=row.rewards[chosen],
        rejected_reward=row.rewards[rejected],
    )


def _thresholds(
    rows: Sequence[pairing.JudgedPrompt], quantile: float
) -> dict[str, float]:
    """Returns the quantile of rewards by family, over prompts without a verifier."""
    rewards: dict[str, list[float]] = {}
    for row in rows:
        if row.scores is None and row.rewards:
            rewards.setdefault(row.item.family, []).extend(row.rewards)
    return {
        family: float(np.quantile(values, quantile))
        for family, values in rewards.items()
    }


def _statistics(
    outcomes: Sequence[_Outcome], threshold: float | None
) -> FamilyStatistics:
    pairs = [pair for outcome in outcomes for pair in outcome.pairs]
    empty = [outcome.reason for outcome in outcomes if not outcome.pairs]
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs)
    chosen = sum(len(pair.chosen) for pair in pairs)
    rejected = sum(len(pair.rejected) for pair in pairs)
    return FamilyStatistics(
        prompts=len(outcomes),
        prompts_with_pairs=len(outcomes) - len(empty),
        pairs=len(pairs),
        rejected=dict(sorted(Counter(empty).items())),
        length_ratio=chosen / rejected if rejected else None,
        chosen_longer=longer / len(pairs) if pairs else None,
        disagreements=sum(_overruled(pair) for pair in pairs),
        chosen_threshold=threshold,
    )


def _overruled(pair: PreferencePair) -> bool:
    """Returns whether the reward prefers the rejected response."""
    if pair.chosen_reward is None or pair.rejected_reward is None:
        return False
    return pair.chosen_reward < pair.rejected_reward


def _check_options(
    mode: str, max_pairs: int, min_gap: float, min_score_gap: float, quantile: float
) -> None:
    if mode not in get_args(pairing.Mode):
        raise ValueError(f"mode must be 'dpo' or 'rpo', got {mode!r}")
    if max_pairs < 1:
        raise ValueError(f"max_pairs_per_prompt must be at least 1, got {max_pairs}")
    if not (min_gap >= 0 and min_score_gap >= 0):
        raise ValueError(
            "gaps must not be negative, got "
            f"min_gap {min_gap} and min_score_gap {min_score_gap}"
        )
    if not 0 <= quantile < 1:
        raise ValueError(f"chosen_quantile must be in [0, 1), got {quantile}")

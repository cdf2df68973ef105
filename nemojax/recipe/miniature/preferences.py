"""Preference data of the miniature recipe: sample, check, score, pair."""

import random
from collections.abc import Sequence
from typing import Any

from nemojax import losses
from nemojax.data.records import Conversation
from nemojax.generation import judges
from nemojax.interop.loading import LoadedModel
from nemojax.recipe.miniature import data
from nemojax.recipe.miniature.policy import Policy, attributes
from nemojax.recipe.miniature.settings import (
    POLICY_WEIGHTS,
    PREFERENCE_WEIGHTS,
    MiniatureSettings,
)
from nemojax.reporting import statistics
from nemojax.sdg.preferences import PairSet, build_pairs
from nemojax.tasks.miniature import tasks
from nemojax.tasks.miniature.grading import Task


def preference_data(
    settings: MiniatureSettings,
    policy: Policy,
    scorer: LoadedModel,
    rng: random.Random,
    mode: str,
) -> PairSet:
    """Makes pairs from the policy's own samples on new training prompts.

    The families here have verifiers, which decide what is chosen; the reward model's
    other attributes and the checked correctness make the reward.
    """
    found = tasks.sample_tasks(
        rng, "train", settings.preference_prompts, PREFERENCE_WEIGHTS
    )
    texts = data.generator_responses(
        policy, found, settings.preference_samples, rng.randrange(2**31)
    )
    verified = judges.verify(found, texts, lambda task, text: task.grade(text))
    flat = [
        Conversation.of(task.prompt, answer)
        for task, row in zip(found, texts, strict=True)
        for answer in row
    ]
    rewards = judges.blended_reward(
        attributes(scorer, flat),
        POLICY_WEIGHTS,
        [value for row in verified for value in row],
    ).reshape(len(found), -1)
    return build_pairs(
        found,
        texts,
        rewards,
        verified,
        rng,
        mode="rpo" if mode == "rpo" else "dpo",
        max_pairs_per_prompt=settings.pairs_per_prompt,
        # DPO calls the chosen response right and the rejected one wrong, so it needs
        # one that is right; RPO also learns from degrees.
        min_score_gap=0.25 if mode == "rpo" else 1.0,
    )


def policy_answers(
    policy: Policy, rng: random.Random, prompts: int, split: str
) -> list[tuple[Task, str]]:
    """Samples two answers of the policy to each of new prompts, at temperature 1."""
    found = tasks.sample_tasks(rng, split, prompts)
    texts = data.generator_responses(policy, found, 2, rng.randrange(2**31))
    return [
        (task, answer) for task, row in zip(found, texts, strict=True) for answer in row
    ]


def pairwise(
    scorer: LoadedModel, answered: Sequence[tuple[Task, str]]
) -> dict[str, dict[str, Any]]:
    """Measures accuracy on pairs with one right response, by family and all.

    Args:
      scorer: a reward model.
      answered: two responses a task, next to each other.
    """
    conversations = [Conversation.of(task.prompt, answer) for task, answer in answered]
    rewards = losses.aggregate(attributes(scorer, conversations), data.FILTER_WEIGHTS)
    right = [task.grade(answer).correct for task, answer in answered]
    found: dict[str, list[int]] = {"all": []}
    for first in range(0, len(answered), 2):
        if right[first] == right[first + 1]:
            continue
        good, bad = (first, first + 1) if right[first] else (first + 1, first)
        outcome = int(rewards[good] > rewards[bad])
        found["all"].append(outcome)
        found.setdefault(answered[first][0].family, []).append(outcome)
    return {
        name: statistics.share(outcomes).to_json()
        for name, outcomes in found.items()
        if outcomes
    }

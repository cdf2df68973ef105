"""Rejection sampling: the best of several responses, to be fine-tuned on."""

from collections.abc import Hashable, Sequence

import numpy as np


def select_best(
    prompts: Sequence[Hashable], rewards: Sequence[float], top: int = 1
) -> np.ndarray:
    """The responses with the highest rewards of each prompt.

    Args:
      prompts: [N], which prompt each response answers.
      rewards: [N], of the responses.
      top: how many are kept of a prompt; all where it has fewer.

    Returns:
      int64 indices, by prompt in the order in which prompts are met, and by rising
      reward within a prompt; of equal rewards the later response is kept.

    Raises:
      ValueError: `top` is not positive, the lengths differ, or a reward is NaN.
    """
    if top < 1:
        raise ValueError(f"top={top} must be positive")
    if len(prompts) != len(rewards):
        raise ValueError(f"{len(prompts)} prompts for {len(rewards)} rewards")
    bad = next((i for i, reward in enumerate(rewards) if np.isnan(reward)), None)
    if bad is not None:
        raise ValueError(f"reward {bad} is NaN")
    members: dict[Hashable, list[int]] = {}
    for index, prompt in enumerate(prompts):
        members.setdefault(prompt, []).append(index)
    kept = [
        sorted(found, key=lambda index: (rewards[index], index))[-top:]
        for found in members.values()
    ]
    return np.array([index for found in kept for index in found], np.int64)

"""Choice of the task tuples that are held out of all training.

A tuple's side is a function of its key alone (an MD5 hash), so that every generator
agrees on it without sharing any state.
"""

import hashlib
from typing import Literal

Split = Literal["train", "test"]

TEST_PERCENT = 15
# Facts are stated in the pretraining text; for this share of them the question is
# never asked in training, so that the answer needs recall and not repetition.
FACT_TEST_PERCENT = 40


def stable_hash(text: str) -> int:
    """Returns a 32-bit hash of ``text`` that is the same in every process."""
    digest = hashlib.md5(text.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:4], "big")


def is_test(key: str) -> bool:
    """Returns whether the task tuple ``key`` ("family:…") is of the test split."""
    percent = FACT_TEST_PERCENT if key.startswith("facts:") else TEST_PERCENT
    return stable_hash("split " + key) % 100 < percent


def belongs(key: str, split: str) -> bool:
    """Returns whether ``key`` is on the side ``split`` ("train" or "test").

    Raises:
      ValueError: if ``split`` is another word.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    return is_test(key) == (split == "test")

"""What an engine tells: tokens with their log-probs, and how an answer ended."""

import dataclasses

import numpy as np

from nemojax.inference.engine.paged_state import Top

STOP, LENGTH, CANCELLED = "stop", "length", "cancelled"


# Likeliest tokens of a place and their log-probs, falling.
Alternatives = list[tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class Scored:
    """Tokens and what the model says of them.

    Attributes:
      tokens: ids.
      log_probs: of each in the model's own distribution, whatever the sampling.
      top: as many of the likeliest in the place of each as were asked for.
    """

    tokens: list[int] = dataclasses.field(default_factory=list)
    log_probs: list[float] = dataclasses.field(default_factory=list)
    top: list[Alternatives] = dataclasses.field(default_factory=list)

    def extend(self, other: "Scored") -> None:
        """Puts others behind these."""
        self.tokens.extend(other.tokens)
        self.log_probs.extend(other.log_probs)
        self.top.extend(other.top)


@dataclasses.dataclass(frozen=True)
class Delta:
    """What became known of an answer.

    Attributes:
      request: its number.
      new: tokens; a stop token is the last.
      finish: "stop", "length" or "cancelled" with the last tokens; None before.
      prompt: with the first tokens, where it was asked for: the prompt's tokens but
        the first, which nothing comes before.
    """

    request: int
    new: Scored
    finish: str | None
    prompt: Scored | None = None


@dataclasses.dataclass(frozen=True)
class Load:
    """How busy an engine is.

    Attributes:
      running, waiting: requests with and without a row.
      free_blocks, blocks: of the cache.
    """

    running: int
    waiting: int
    free_blocks: int
    blocks: int


def scored(
    tokens: np.ndarray, log_probs: np.ndarray, top: Top | None, count: int
) -> Scored:
    """Tokens [S] with `count` alternatives of those in `top` [S, A], if any."""
    alternatives: list[Alternatives] = [[] for _ in tokens]
    if count and top is not None:
        alternatives = [
            list(zip(ids[:count].tolist(), values[:count].tolist(), strict=True))
            for ids, values in zip(*top, strict=True)
        ]
    return Scored(tokens.tolist(), log_probs.tolist(), alternatives)

"""Results of the engine: tokens with their log-probs, and how an output ended."""

import dataclasses

import numpy as np

from nemojax.inference.engine.paged_state import TopTokens

STOP, LENGTH, CANCELLED = "stop", "length", "cancelled"


# The likeliest tokens at a position with their log-probs, falling.
Alternatives = list[tuple[int, float]]
_NONE: Alternatives = []


@dataclasses.dataclass(frozen=True)
class TokenScores:
    """Tokens with their log-probs, and the likeliest tokens at the same positions.

    Attributes:
      tokens: ids.
      log_probs: log-probs of the tokens in the model's own distribution, whatever the
        sampling.
      top: as many of the likeliest tokens at each position as the request wants.
    """

    tokens: list[int] = dataclasses.field(default_factory=list)
    log_probs: list[float] = dataclasses.field(default_factory=list)
    top: list[Alternatives] = dataclasses.field(default_factory=list)

    def extend(self, other: "TokenScores") -> None:
        """Appends the tokens that follow."""
        self.tokens.extend(other.tokens)
        self.log_probs.extend(other.log_probs)
        self.top.extend(other.top)


@dataclasses.dataclass(frozen=True)
class TokenDelta:
    """Newly generated tokens of one request.

    Attributes:
      request: number of the request.
      new: the tokens; a stop token is the last.
      finish_reason: "stop", "length" or "cancelled" with the last tokens; None before.
      prompt: with the first tokens, where the request wants it: scores of the prompt's
        tokens but the first, which has no token before it.
    """

    request: int
    new: TokenScores
    finish_reason: str | None
    prompt: TokenScores | None = None


@dataclasses.dataclass(frozen=True)
class Completion:
    """The whole output of one request.

    Attributes:
      tokens: ids; a stop token is the last.
      log_probs: log-probs of each token in the model's own distribution.
      finish_reason: "stop" or "length".
    """

    tokens: list[int]
    log_probs: list[float]
    finish_reason: str


@dataclasses.dataclass(frozen=True)
class Load:
    """Numbers that say how busy an engine is.

    Attributes:
      running, waiting: requests with and without a slot.
      free_blocks, blocks: blocks of the cache.
    """

    running: int
    waiting: int
    free_blocks: int
    blocks: int


def token_scores(
    tokens: np.ndarray, log_probs: np.ndarray, top: TopTokens | None, count: int
) -> TokenScores:
    """Converts arrays of one sequence to lists.

    Args:
      tokens: ids [S].
      log_probs: their log-probs [S].
      top: likeliest tokens [S, A], if there are any.
      count: number of likeliest tokens that are kept.
    """
    if count and top is not None:
        alternatives = [
            list(zip(ids[:count].tolist(), values[:count].tolist(), strict=True))
            for ids, values in zip(*top, strict=True)
        ]
    else:
        alternatives = [_NONE] * len(tokens)
    return TokenScores(tokens.tolist(), log_probs.tolist(), alternatives)

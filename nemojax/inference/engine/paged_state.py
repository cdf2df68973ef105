"""What the device is told and what it keeps, with a cache in blocks.

Shape letters: B rows, S tokens of a row, N blocks, Z tokens of a block, W blocks of a
row, G key/value heads, K head width, V vocabulary, A alternatives of a token.
"""

import dataclasses
from typing import Any, NamedTuple

from nemojax.inference.engine import sampling


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What is compiled.

    Attributes:
      rows: answers that are written at a time.
      blocks: of the cache, of each shard of `data`.
      block_size: tokens of a block.
      max_length: tokens of a text, prompt and answer.
      prefill_rows: prompts that are read at a time.
      chunk: tokens of a prompt that are read at a time.
      tile: keys that are looked at at a time; a multiple of `block_size`. Where one
        holds a whole text, `decode` gathers it once a call and not once a token.
      steps: tokens that `decode` writes in a row.
    """

    rows: int = 32
    blocks: int = 1024
    block_size: int = 16
    max_length: int = 4096
    prefill_rows: int = 8
    chunk: int = 128
    tile: int = 256
    steps: int = 4

    @property
    def width(self) -> int:
        """W: blocks that a text can have, up to a whole tile."""
        return -(-self.max_length // self.tile) * self.tile // self.block_size


class State(NamedTuple):
    """Where the rows are, on the device (or what is said of each array).

    Attributes:
      keys, values: of each layer [N, G, Z, K].
      token: int32 [B], the newest, whose keys are not in the cache yet.
      length: int32 [B], tokens in the cache.
      count: int32 [B], tokens of the answer, the newest included.
      done: bool [B].
      seen: bool [B, V], tokens of prompt and answer.
    """

    keys: Any
    values: Any
    token: Any
    length: Any
    count: Any
    done: Any
    seen: Any


class Written(NamedTuple):
    """Tokens of a call: arrays [steps, B].

    Attributes:
      token: int32.
      log_prob: float32, of the token in the model's own distribution.
      valid: bool; False where the row was done before.
      top: the likeliest tokens, [steps, B, A]; zeros where nobody asked for them.
    """

    token: Any
    log_prob: Any
    valid: Any
    top: Any


class Top(NamedTuple):
    """The likeliest tokens, falling: ids int32 and their log-probs float32 [..., A]."""

    token: Any
    log_prob: Any


class Scores(NamedTuple):
    """What the model says of the tokens of a prompt.

    Attributes:
      log_prob: float32 [B, S], of the token after each.
      top: the likeliest after each, [B, S, A]; zeros where nobody asked for them.
    """

    log_prob: Any
    top: Top


class Span(NamedTuple):
    """Tokens that are read, and the blocks of the texts that they belong to.

    Attributes:
      tokens: int32 [B, S].
      start: int32 [B], tokens of the text that are in the cache before.
      size: int32 [B], how many of the tokens count.
      table: int32 [B, W], blocks.
    """

    tokens: Any
    start: Any
    size: Any
    table: Any


class Piece(NamedTuple):
    """Pieces of prompts: arrays [B] or [B, S].

    Attributes:
      span: the tokens; a piece of size 0 is none.
      after: int32 [B, S], the token that follows each in its text.
      row: int32, where the answer will be written; `rows` and more: nowhere.
      last: bool, whether the prompt ends here and the answer begins.
      how: sampling settings. With a repetition penalty a text has to start at 0.
    """

    span: Span
    after: Any
    row: Any
    last: Any
    how: sampling.Settings


class Turn(NamedTuple):
    """What `decode` needs of all rows.

    Attributes:
      active: bool [B]; False for rows without a request, or whose was cancelled.
      table: int32 [B, W], blocks.
      how: sampling settings.
    """

    active: Any
    table: Any
    how: sampling.Settings

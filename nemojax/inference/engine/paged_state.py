"""Inputs, state and outputs of the device programs, with a cache in blocks.

Shape letters: B sequences, S tokens of a sequence, N blocks, Z tokens of a block,
W blocks of a sequence, G key/value heads, K head width, V vocabulary, A alternatives of
a token.
"""

from typing import Any, NamedTuple

from nemojax.inference.engine import sampling


class State(NamedTuple):
    """State of all slots on the device (or a description of each array).

    Attributes:
      keys, values: arrays for each layer [N, G, Z, K].
      token: int32 [B], the newest, whose keys are not in the cache yet.
      length: int32 [B], tokens in the cache.
      count: int32 [B], tokens of the output, the newest included.
      done: bool [B].
      seen: bool [B, V], tokens of prompt and output.
    """

    keys: Any
    values: Any
    token: Any
    length: Any
    count: Any
    done: Any
    seen: Any


class StepOutput(NamedTuple):
    """Tokens that a prefill or decode call generated: arrays [steps, B].

    Attributes:
      token: int32.
      log_prob: float32, of the token in the model's own distribution.
      valid: bool; False where the sequence had ended before.
      top: the likeliest tokens, [steps, B, A]; zeros where no request wants them.
    """

    token: Any
    log_prob: Any
    valid: Any
    top: Any


class TopTokens(NamedTuple):
    """The likeliest tokens, falling: ids int32 and their log-probs float32 [..., A]."""

    token: Any
    log_prob: Any


class PromptLogProbs(NamedTuple):
    """Log-probs of the tokens of prompt chunks.

    Attributes:
      log_prob: float32 [B, S], of the token after each.
      top: the likeliest after each, [B, S, A]; zeros where no request wants them.
    """

    log_prob: Any
    top: TopTokens


class Span(NamedTuple):
    """Consecutive tokens of sequences, with the sequences' block tables.

    Attributes:
      tokens: int32 [B, S].
      start: int32 [B], tokens of the sequence that are in the cache before.
      size: int32 [B], how many of the S tokens count.
      table: int32 [B, W], blocks.
    """

    tokens: Any
    start: Any
    size: Any
    table: Any


class PrefillChunk(NamedTuple):
    """Input of a prefill call: a chunk of each of some prompts, arrays [B] or [B, S].

    Attributes:
      span: the tokens; a chunk of size 0 is unused.
      after: int32 [B, S], the token that follows each in its prompt.
      slot: int32, the slot of the sequence; `slots` and more: none.
      last: bool, whether the prompt ends with this chunk and the output begins.
      settings: sampling settings. With a repetition penalty a sequence has to start
        at 0.
    """

    span: Span
    after: Any
    slot: Any
    last: Any
    settings: sampling.BatchSampling


class DecodeInput(NamedTuple):
    """Input of a decode call.

    Attributes:
      active: bool [B]; False for slots without a request, or whose was cancelled.
      table: int32 [B, W], blocks.
      min_live: int32 [shards of `data`]; a shard's call ends once no more than this
        number of its sequences still generate.
      settings: sampling settings.
    """

    active: Any
    table: Any
    min_live: Any
    settings: sampling.BatchSampling

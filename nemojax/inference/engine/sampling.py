"""The next token of every row of a batch, on the device.

The order of what is done to the logits is that of transformers: repetition penalty,
temperature, top-k, top-p, min-p. A token is a function of the row's distribution, its
seed and the number of the token alone. Shape letters: B rows, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nemojax.errors import UserError

# A row's own stop tokens beside those of the model; more are refused.
MAX_STOP_IDS = 8
# Likeliest tokens that are told beside the one that was chosen.
MAX_TOP = 20
_NO_TOKEN = -1


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the tokens of one request are chosen.

    Attributes:
      temperature: divides the logits; 0 is greedy.
      top_k: only the k likeliest tokens; 0: all. Tokens that tie with the last count.
      top_p: only the likeliest tokens that together reach this probability.
      min_p: only tokens at least so likely as this times the likeliest.
      repetition_penalty: logits of tokens that the prompt or the answer has are
        divided by it where positive, and multiplied where negative.
      seed: any integer; its lowest 32 bits count.
      max_tokens: at most so many.
      stop_ids: tokens that end the answer.
      top: how many of the likeliest tokens are told with each.
      prompt_log_probs: whether the log-probs of the prompt's tokens are told, too.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    max_tokens: int = 64
    stop_ids: tuple[int, ...] = ()
    top: int = 0
    prompt_log_probs: bool = False

    def __post_init__(self):
        """Raises ValueError for what no distribution is left of; names the field."""
        ranges = (
            ("temperature", 0, 1e3, "0 to 1000"),
            ("top_k", 0, 2**31 - 1, "0 or more"),
            ("top_p", 1e-9, 1, "more than 0, at most 1"),
            ("min_p", 0, 1, "0 to 1"),
            ("repetition_penalty", 1e-3, 1e3, "0.001 to 1000"),
            ("max_tokens", 1, 2**31 - 1, "1 or more"),
            ("stop_ids", 0, MAX_STOP_IDS, f"at most {MAX_STOP_IDS} tokens"),
            ("top", 0, MAX_TOP, f"0 to {MAX_TOP}"),
        )
        for name, low, high, words in ranges:
            value = getattr(self, name)
            if not low <= (len(value) if name == "stop_ids" else value) <= high:
                raise UserError(f"{name} is {value}; it has to be {words}")


class Settings(NamedTuple):
    """`Sampling` of all rows: arrays [B]; the stop tokens are [B, MAX_STOP_IDS]."""

    temperature: Any
    top_k: Any
    top_p: Any
    min_p: Any
    penalty: Any
    seed: Any
    max_tokens: Any
    stop_ids: Any
    top: Any


def settings(rows: Sequence[Sampling | None]) -> Settings:
    """Arrays for the device; None stands for a row that is not used."""
    used = [row or Sampling(temperature=0) for row in rows]

    def column(name: str, dtype):
        return np.array([getattr(row, name) for row in used], dtype)

    stop_ids = np.full((len(used), MAX_STOP_IDS), _NO_TOKEN, np.int32)
    for index, row in enumerate(used):
        stop_ids[index, : len(row.stop_ids)] = row.stop_ids
    return Settings(
        column("temperature", np.float32),
        column("top_k", np.int32),
        column("top_p", np.float32),
        column("min_p", np.float32),
        column("repetition_penalty", np.float32),
        np.array([row.seed % 2**32 for row in used], np.uint32),
        column("max_tokens", np.int32),
        stop_ids,
        column("top", np.int32),
    )


def choose(
    logits_BV: jax.Array, seen_BV: jax.Array, index_B: jax.Array, how: Settings
) -> jax.Array:
    """Samples one token a row.

    Args:
      logits_BV: float32.
      seen_BV: bool, the tokens that the penalty is for.
      index_B: int32, the number of the token in its answer, from 0.
      how: settings of the rows.

    Returns:
      int32 [B].
    """
    penalty = how.penalty[:, None]
    penalised = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    logits_BV = jnp.where(seen_BV, penalised, logits_BV)
    greedy = _argmax(logits_BV)
    hot = how.temperature > 0
    # What no row needs is left out: half of the time of a small model otherwise.
    sampled = lax.cond(
        jnp.any(hot), lambda: _draw(logits_BV, index_B, hot, how), lambda: greedy
    )
    return jnp.where(hot, sampled, greedy)


def _argmax(logits_BV: jax.Array) -> jax.Array:
    """The first [B] of the largest.

    XLA's own looks at one number after the other on a CPU, six times as slow as this.
    """
    V = logits_BV.shape[-1]
    largest = logits_BV == logits_BV.max(-1, keepdims=True)
    return jnp.where(largest, jnp.arange(V), V - 1).min(-1).astype(jnp.int32)


def _draw(logits_BV, index_B, hot, how: Settings) -> jax.Array:
    """A token [B] of the distribution that the filters leave."""
    temperature = jnp.where(hot, how.temperature, 1.0)[:, None]
    # The likeliest is 0 exactly, and what sorting finds is compared before anything is
    # computed of it: a compiler may compute a number twice, and not to the same bit.
    scaled = (logits_BV - logits_BV.max(-1, keepdims=True)) / temperature
    sorts = ((how.top_k > 0) | (how.top_p < 1)) & hot
    lowest = lax.cond(
        jnp.any(sorts),
        lambda: _lowest(logits_BV, temperature, how),
        lambda: jnp.full_like(logits_BV[:, 0], -jnp.inf),
    )
    kept = logits_BV >= lowest[:, None]
    kept &= scaled >= jnp.log(jnp.maximum(how.min_p, 1e-30))[:, None]
    weights = jnp.where(kept, jnp.exp(scaled), 0.0)
    # One uniform number a row, and the inverse of the cumulative distribution.
    # Rounding may not hit a token of weight 0: the number stays below the last sum
    # of a token that counts, and only such tokens are looked at.
    sums = jnp.where(weights > 0, jnp.cumsum(weights, axis=-1), 0.0)
    total = sums.max(-1)
    threshold = jnp.minimum(
        _uniform(how.seed, index_B) * total, jnp.nextafter(total, jnp.zeros_like(total))
    )
    return (sums > threshold[:, None]).argmax(-1).astype(jnp.int32)


def _lowest(logits_BV: jax.Array, temperature_B1, how: Settings) -> jax.Array:
    """The lowest logit [B] that top-k and then top-p leave."""
    V = logits_BV.shape[-1]
    falling = -jnp.sort(-logits_BV, axis=-1)
    k = jnp.where(how.top_k > 0, jnp.minimum(how.top_k, V), V)[:, None]
    kth = jnp.take_along_axis(falling, k - 1, axis=-1)
    weights = jnp.exp((falling - falling[:, :1]) / temperature_B1)
    weights = jnp.where(falling >= kth, weights, 0.0)
    before = jnp.cumsum(weights, axis=-1) - weights
    inside = before < how.top_p[:, None] * weights.sum(-1, keepdims=True)
    # Sums are rounded, and would cut a row's end that wants none cut.
    inside |= how.top_p[:, None] >= 1
    last = jnp.where(inside & (falling >= kth), jnp.arange(V), 0).max(-1)
    return jnp.take_along_axis(falling, last[:, None], axis=-1)[:, 0]


def _uniform(seed_B: jax.Array, index_B: jax.Array) -> jax.Array:
    """float32 [B] in [0, 1): of the seed and the index alone."""

    def one(seed, index):
        return jax.random.uniform(jax.random.fold_in(jax.random.key(seed), index))

    return jax.vmap(one)(seed_B, index_B)


def ends(token_B: jax.Array, count_B: jax.Array, how: Settings) -> jax.Array:
    """bool [B]: whether an answer of so many tokens ends with its last one."""
    stops = (token_B[:, None] == how.stop_ids).any(-1)
    return stops | (count_B >= how.max_tokens)

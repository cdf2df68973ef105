"""Sampling of the next token of each sequence, on the device.

Logits are processed in the order of transformers: repetition penalty, temperature,
top-k, top-p, min-p. A token is a function of the sequence's distribution, its seed and
the index of the token alone. Shape letters: B sequences, V vocabulary, J groups of L
tokens.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nemojax.errors import UserError

# Stop tokens of a request; more are refused.
MAX_STOP_IDS = 8
# Likeliest tokens that can be reported beside the one that was chosen.
MAX_TOP = 20
_NO_TOKEN = -1
_GROUP = 32  # tokens whose weights are summed before the sums are accumulated


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Sampling settings of one request.

    Attributes:
      temperature: divides the logits; 0 is greedy.
      top_k: only the k likeliest tokens; 0: all. Tokens that tie with the last count.
      top_p: only the likeliest tokens that together reach this probability.
      min_p: only tokens at least so likely as this times the likeliest.
      repetition_penalty: logits of tokens that occur in the prompt or the output are
        divided by it where positive, and multiplied where negative.
      seed: any integer; its lowest 32 bits count.
      max_tokens: output tokens at most.
      stop_ids: tokens that end the output.
      top: number of likeliest tokens that are reported at each position.
      prompt_log_probs: whether the log-probs of the prompt's tokens are reported, too.
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
        """Checks the ranges; raises UserError that names the field."""
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
        if not all(0 <= token < 2**31 for token in self.stop_ids):
            raise UserError(f"stop_ids has a number that is no id: {self.stop_ids}")


class BatchSampling(NamedTuple):
    """Sampling settings of all sequences, in two arrays: each costs a copy a call.

    Attributes:
      floats: float32 [B, 4]: temperature, top-p, min-p, repetition penalty.
      ints: int32 [B, 4 + MAX_STOP_IDS]: top-k, seed, max_tokens, top, stop tokens.
    """

    floats: Any
    ints: Any

    @property
    def temperature(self) -> Any:
        """Float32 [B]."""
        return self.floats[:, 0]

    @property
    def top_p(self) -> Any:
        """Float32 [B]."""
        return self.floats[:, 1]

    @property
    def min_p(self) -> Any:
        """Float32 [B]."""
        return self.floats[:, 2]

    @property
    def penalty(self) -> Any:
        """Float32 [B]."""
        return self.floats[:, 3]

    @property
    def top_k(self) -> Any:
        """Int32 [B]."""
        return self.ints[:, 0]

    @property
    def seed(self) -> Any:
        """Uint32 [B]."""
        return lax.bitcast_convert_type(self.ints[:, 1], jnp.uint32)

    @property
    def max_tokens(self) -> Any:
        """Int32 [B]."""
        return self.ints[:, 2]

    @property
    def top(self) -> Any:
        """Int32 [B]."""
        return self.ints[:, 3]

    @property
    def stop_ids(self) -> Any:
        """Int32 [B, MAX_STOP_IDS]; unused places hold no token."""
        return self.ints[:, 4:]


UNUSED = Sampling(temperature=0)  # of a slot without a request


def settings(rows: Sequence[Sampling | None]) -> BatchSampling:
    """Converts settings to arrays for the device; None stands for an unused slot."""
    found = BatchSampling(
        np.empty((len(rows), 4), np.float32),
        np.empty((len(rows), 4 + MAX_STOP_IDS), np.int32),
    )
    for index, row in enumerate(rows):
        fill(found, index, row or UNUSED)
    return found


def fill(found: BatchSampling, index: int, row: Sampling) -> None:
    """Writes the settings of one sequence into the arrays, in place."""
    seed = (row.seed + 2**31) % 2**32 - 2**31  # the same 32 bits, with a sign
    stops = row.stop_ids + (_NO_TOKEN,) * (MAX_STOP_IDS - len(row.stop_ids))
    found.floats[index] = (
        row.temperature,
        row.top_p,
        row.min_p,
        row.repetition_penalty,
    )
    found.ints[index] = (row.top_k, seed, row.max_tokens, row.top, *stops)


def choose(
    logits_BV: jax.Array, seen_BV: jax.Array, index_B: jax.Array, how: BatchSampling
) -> jax.Array:
    """Samples one token of each sequence.

    Args:
      logits_BV: float32.
      seen_BV: bool, the tokens that the penalty is for.
      index_B: int32, the index of the token in its output, from 0.
      how: settings of the sequences.

    Returns:
      int32 [B].
    """
    # Work that no sequence needs is left out: half of a small model's time otherwise.
    logits_BV = lax.cond(
        jnp.any(how.penalty != 1),
        lambda: _penalise(logits_BV, seen_BV, how.penalty[:, None]),
        lambda: logits_BV,
    )
    hot = how.temperature > 0
    none = jnp.zeros_like(index_B)
    greedy = lax.cond(jnp.all(hot), lambda: none, lambda: _argmax(logits_BV))
    sampled = lax.cond(
        jnp.any(hot), lambda: _draw(logits_BV, index_B, hot, how), lambda: none
    )
    return jnp.where(hot, sampled, greedy)


def _penalise(logits_BV, seen_BV, penalty_B1) -> jax.Array:
    """Makes the logits of seen tokens smaller."""
    smaller = jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1)
    return jnp.where(seen_BV, smaller, logits_BV)


def _argmax(logits_BV: jax.Array) -> jax.Array:
    """Returns the first index [B] of the largest.

    XLA's own reads one number after the other on a CPU, six times as slow as this.
    """
    V = logits_BV.shape[-1]
    largest = logits_BV == logits_BV.max(-1, keepdims=True)
    return jnp.where(largest, jnp.arange(V), V - 1).min(-1).astype(jnp.int32)


def _draw(logits_BV, index_B, hot, how: BatchSampling) -> jax.Array:
    """Draws a token [B] from the distribution that the filters leave."""
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
    return _invert(weights, _uniform(how.seed, index_B))


def _invert(weights_BV, uniform_B) -> jax.Array:
    """Inverts the cumulative distribution at one uniform number of each sequence.

    Sums of groups are accumulated and searched first, then the tokens of one group: to
    accumulate all of the vocabulary would cost more than the rest of the sampling.
    Rounding cannot hit a token of weight 0: only others are looked at, and the number
    stays below the last of their sums.
    """
    B, V = weights_BV.shape
    padding = (0, 0), (0, -V % _GROUP)
    weights_BJL = jnp.pad(weights_BV, padding).reshape(B, -1, _GROUP)
    sums_BJ = weights_BJL.sum(-1)
    ends_BJ = jnp.where(sums_BJ > 0, jnp.cumsum(sums_BJ, axis=-1), 0.0)
    group, target = _first_above(ends_BJ, uniform_B * ends_BJ.max(-1))
    earlier = jnp.arange(ends_BJ.shape[1]) < group[:, None]
    target -= jnp.where(earlier, ends_BJ, 0.0).max(-1)
    own_BL = jnp.take_along_axis(weights_BJL, group[:, None, None], axis=1)[:, 0]
    ends_BL = jnp.where(own_BL > 0, jnp.cumsum(own_BL, axis=-1), 0.0)
    token, _ = _first_above(ends_BL, target)
    return group * _GROUP + token


def _first_above(ends_BN, target_B) -> tuple[jax.Array, jax.Array]:
    """Returns the first index [B] above a target, and the target [B] below the last."""
    last = ends_BN.max(-1)
    target_B = jnp.minimum(target_B, jnp.nextafter(last, jnp.zeros_like(last)))
    return (ends_BN > target_B[:, None]).argmax(-1).astype(jnp.int32), target_B


def _lowest(logits_BV: jax.Array, temperature_B1, how: BatchSampling) -> jax.Array:
    """Returns the lowest logit [B] that top-k and then top-p leave."""
    V = logits_BV.shape[-1]
    falling = -jnp.sort(-logits_BV, axis=-1)
    k = jnp.where(how.top_k > 0, jnp.minimum(how.top_k, V), V)[:, None]
    kth = jnp.take_along_axis(falling, k - 1, axis=-1)
    weights = jnp.exp((falling - falling[:, :1]) / temperature_B1)
    weights = jnp.where(falling >= kth, weights, 0.0)
    before = jnp.cumsum(weights, axis=-1) - weights
    inside = before < how.top_p[:, None] * weights.sum(-1, keepdims=True)
    # Sums are rounded, and would cut the end where nothing is to be cut.
    inside |= how.top_p[:, None] >= 1
    last = jnp.where(inside & (falling >= kth), jnp.arange(V), 0).max(-1)
    return jnp.take_along_axis(falling, last[:, None], axis=-1)[:, 0]


def _uniform(seed_B: jax.Array, index_B: jax.Array) -> jax.Array:
    """Returns float32 [B] in [0, 1), functions of seed and index alone."""

    def one(seed, index):
        return jax.random.uniform(jax.random.fold_in(jax.random.key(seed), index))

    return jax.vmap(one)(seed_B, index_B)


def ends(token_B: jax.Array, count_B: jax.Array, how: BatchSampling) -> jax.Array:
    """Returns bool [B]: whether an output of so many tokens ends with its last one."""
    stops = (token_B[:, None] == how.stop_ids).any(-1)
    return stops | (count_B >= how.max_tokens)

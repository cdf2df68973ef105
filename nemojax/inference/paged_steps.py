"""The two things that the device does, as pure functions; run inside a `shard_map`.

Shape letters: B rows, S tokens of a row, W blocks of a row, D width of the model,
V vocabulary, A alternatives of a token.
"""

import jax
import jax.numpy as jnp
from jax import lax

from nemojax.inference import paged_attention, sampling
from nemojax.inference.paged_state import (
    Piece,
    Scores,
    Shapes,
    Span,
    State,
    Top,
    Turn,
    Written,
)
from nemojax.models import layers, stages
from nemojax.models.config import ModelConfig
from nemojax.parallel import collectives


def prefill(
    config: ModelConfig, shapes: Shapes, params, state: State, piece: Piece
) -> tuple[State, Written]:
    """Writes pieces to the cache; where a prompt ends, the answer's first token."""
    x, state = _forward(config, shapes, params, state, piece.span)
    return _begin(config, params, x, state, piece)


def read(
    config: ModelConfig, shapes: Shapes, params, state: State, piece: Piece
) -> tuple[State, Written, Scores]:
    """As `prefill`, and says of each token of the prompts how likely it was."""
    x, state = _forward(config, shapes, params, state, piece.span)
    wanted = jnp.any(piece.how.top > 0)

    def score(row):
        x_SD, after_S = row
        logits = _logits(config, params, x_SD)
        return _log_prob(logits, after_S), _top(logits, wanted)

    # Row after row: the logits of all would be larger than all else.
    scores = Scores(*lax.map(score, (x, piece.after)))
    return *_begin(config, params, x, state, piece), scores


def decode(
    config: ModelConfig, shapes: Shapes, params, state: State, turn: Turn
) -> tuple[State, Written]:
    """Some tokens of every row that is not done."""

    def step(state: State, _):
        live = turn.active & ~state.done
        size = live.astype(jnp.int32)
        span = Span(state.token[:, None], state.length, size, turn.table)
        x, state = _forward(config, shapes, params, state, span)
        token, log_prob, top = _next(
            config, params, x[:, 0], state.seen, state.count, turn.how
        )
        count = state.count + size
        state = state._replace(
            token=jnp.where(live, token, state.token),
            length=state.length + size,
            count=count,
            done=state.done | (live & sampling.ends(token, count, turn.how)),
            seen=_see(state.seen, token, live),
        )
        return state, Written(token, log_prob, live, top)

    return lax.scan(step, state, length=shapes.steps)


def _begin(config, params, x_BSD, state: State, piece: Piece) -> tuple[State, Written]:
    """The first tokens of the answers to prompts that end."""
    span = piece.span
    last = jnp.maximum(span.size - 1, 0)
    x_BD = jnp.take_along_axis(x_BSD, last[:, None, None], axis=1)[:, 0]
    begins = (span.start == 0)[:, None]
    seen = jnp.where(begins, False, state.seen[piece.row])
    rows, offset = jnp.arange(len(seen))[:, None], jnp.arange(span.tokens.shape[1])
    inside = jnp.where(offset < span.size[:, None], span.tokens, config.vocab_size)
    seen = seen.at[rows, inside].set(True, mode="drop")
    count = jnp.zeros_like(span.start)
    token, log_prob, top = _next(config, params, x_BD, seen, count, piece.how)
    live = piece.last & (span.size > 0)
    seen = _see(seen, token, live)

    def put(old, new):
        return old.at[piece.row].set(new, mode="drop")

    state = state._replace(
        token=put(state.token, token),
        length=put(state.length, span.start + span.size),
        count=put(state.count, count + 1),
        done=put(state.done, ~live | sampling.ends(token, count + 1, piece.how)),
        seen=put(state.seen, seen),
    )
    written = Written(token, log_prob, live, top)
    return state, jax.tree.map(lambda part: part[None], written)


def _see(seen_BV, token_B, live_B):
    """With the tokens of the rows that are live."""
    token_B = jnp.where(live_B, token_B, seen_BV.shape[1])
    return seen_BV.at[jnp.arange(len(token_B)), token_B].set(True, mode="drop")


def _next(config: ModelConfig, params, x_BD, seen, count, how):
    """The next token [B], its log-probability in the model's distribution, others."""
    logits = _logits(config, params, x_BD)
    token = sampling.choose(logits, seen, count, how)
    return token, _log_prob(logits, token), _top(logits, jnp.any(how.top > 0))


def _logits(config: ModelConfig, params, x_BD) -> jax.Array:
    """float32 [B, V]."""
    x_BD = stages.final_norm(config, params, x_BD[:, None])
    logits = stages.local_logits(config, params, x_BD)[:, 0]
    return collectives.all_gather(logits, "tensor", 1)[:, : config.vocab_size]


def _log_prob(logits_BV, token_B) -> jax.Array:
    picked = jnp.take_along_axis(logits_BV, token_B[:, None], axis=1)[:, 0]
    return picked - jax.nn.logsumexp(logits_BV, axis=-1)


def _top(logits_BV, wanted) -> Top:
    """The likeliest tokens [B, A], where they are wanted."""
    B, V = logits_BV.shape
    A = min(sampling.MAX_TOP, V)

    def find():
        values, tokens = lax.top_k(logits_BV, A)
        return tokens, values - jax.nn.logsumexp(logits_BV, axis=-1, keepdims=True)

    def nothing():
        return jnp.zeros((B, A), jnp.int32), jnp.zeros((B, A), jnp.float32)

    return Top(*lax.cond(wanted, find, nothing))


def _forward(
    config: ModelConfig, shapes: Shapes, params, state: State, span: Span
) -> tuple[jax.Array, State]:
    """Tokens [B, S] through the layers, and the cache with them in it.

    Those from `size` on are written to the block that is nobody's.
    """
    offset = jnp.arange(span.tokens.shape[1])
    positions = span.start[:, None] + offset
    valid = offset < span.size[:, None]
    block = positions // shapes.block_size
    block = jnp.take_along_axis(span.table, block, 1, mode="clip")
    block = jnp.where(valid, block, 0)
    place = jnp.where(valid, positions % shapes.block_size, 0)
    tiles = jnp.maximum(1, -(-jnp.max(span.start + span.size) // shapes.tile))
    layer = layers.DecoderLayer(config, sequence_parallel=False)
    x = stages.embed(config, params, span.tokens, sequence_parallel=False)
    keys, values = list(state.keys), list(state.values)
    for index, layer_params in enumerate(params["layers"]):

        def attend(q, k, v, index=index):
            keys[index] = keys[index].at[block, :, place].set(k)
            values[index] = values[index].at[block, :, place].set(v)
            out = paged_attention.attention(
                q, keys[index], values[index], span.table, positions, tiles, shapes.tile
            )
            return out, None

        x, _ = layers.apply(layer, layer_params, x, positions, attend)
    return x, state._replace(keys=tuple(keys), values=tuple(values))

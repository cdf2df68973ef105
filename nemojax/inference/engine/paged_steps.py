"""The two things that the device does, as pure functions; run inside a `shard_map`.

Shape letters: B rows, S tokens of a row, W blocks of a row, D width of the model,
V vocabulary, A alternatives of a token.
"""

import jax
import jax.numpy as jnp
from jax import lax

from nemojax.inference.engine import paged_attention, sampling
from nemojax.inference.engine.paged_state import (
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
    x, state = _read(config, shapes, params, state, piece.span)
    return _begin(config, params, x, state, piece)


def read(
    config: ModelConfig, shapes: Shapes, params, state: State, piece: Piece
) -> tuple[State, Written, Scores]:
    """As `prefill`, and says of each token of the prompts how likely it was."""
    x, state = _read(config, shapes, params, state, piece.span)
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
    """Some tokens of every row that is not done.

    Their keys and values lie beside the cache until all are written: the cache is
    only read meanwhile, and one write a call costs less than one a token.
    """
    length, (_, G, _, K) = state.length, state.keys[0].shape
    tiles = _tiles(shapes, jnp.where(turn.active, length, 0))
    old = [
        paged_attention.cached(*both, turn.table, tiles, shapes.tile)
        for both in zip(state.keys, state.values, strict=True)
    ]

    def step(carry, index):
        state, keys, values = carry[0], list(carry[1]), list(carry[2])
        live = turn.active & ~state.done

        def attend(layer, q, k, v):
            for all_new, new in ((keys, k), (values, v)):
                all_new[layer] = lax.dynamic_update_slice_in_dim(
                    all_new[layer], new.swapaxes(1, 2), index, 2
                )
            new = keys[layer], values[layer]
            return paged_attention.attention_beside(q, old[layer], length, new, index)

        x = _forward(config, params, state.token[:, None], state.length, attend)
        token, log_prob, top = _next(
            config, params, x[:, 0], state.seen, state.count, turn.how
        )
        size = live.astype(jnp.int32)
        count = state.count + size
        state = state._replace(
            token=jnp.where(live, token, state.token),
            length=state.length + size,
            count=count,
            done=state.done | (live & sampling.ends(token, count, turn.how)),
            seen=_see(state.seen, token, live),
        )
        return (state, keys, values), Written(token, log_prob, live, top)

    empty = jnp.zeros((len(length), G, shapes.steps, K), config.compute_dtype)
    none = [empty] * config.num_layers
    start = state._replace(keys=(), values=()), none, none
    (after, keys, values), written = lax.scan(step, start, jnp.arange(shapes.steps))
    put = _writer(shapes, turn.table, length, after.length - length, shapes.steps)
    keys, values = (
        tuple(put(cache, new.swapaxes(1, 2)) for cache, new in zip(*both, strict=True))
        for both in ((state.keys, keys), (state.values, values))
    )
    return after._replace(keys=keys, values=values), written


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


def _read(
    config: ModelConfig, shapes: Shapes, params, state: State, span: Span
) -> tuple[jax.Array, State]:
    """Tokens [B, S] through the layers, and the cache with them in it."""
    S = span.tokens.shape[1]
    positions = span.start[:, None] + jnp.arange(S)
    tiles = jnp.maximum(1, _tiles(shapes, span.start + span.size))
    put = _writer(shapes, span.table, span.start, span.size, S)
    keys, values = list(state.keys), list(state.values)

    def attend(layer, q, k, v):
        keys[layer], values[layer] = put(keys[layer], k), put(values[layer], v)
        old = paged_attention.cached(
            keys[layer], values[layer], span.table, tiles, shapes.tile
        )
        return paged_attention.attention(q, old, positions, k.shape[2])

    x = _forward(config, params, span.tokens, span.start, attend)
    return x, state._replace(keys=tuple(keys), values=tuple(values))


def _tiles(shapes: Shapes, length_B) -> jax.Array:
    """How many hold the longest row."""
    return -(-jnp.max(length_B) // shapes.tile)


def _writer(shapes: Shapes, table_BW, start_B, size_B, S: int):
    """(cache [N, G, Z, K], keys or values [B, S, G, K]) -> the cache with them in it.

    Those from `size` on are written to the block that is nobody's.
    """
    offset = jnp.arange(S)
    positions = start_B[:, None] + offset
    valid = offset < size_B[:, None]
    block = positions // shapes.block_size
    block = jnp.take_along_axis(table_BW, block, 1, mode="clip")
    block = jnp.where(valid, block, 0)
    place = jnp.where(valid, positions % shapes.block_size, 0)
    return lambda cache, new: cache.at[block, :, place].set(new)


def _forward(config: ModelConfig, params, tokens_BS, start_B, attend) -> jax.Array:
    """[B, S, D] after the layers; `attend` is told which layer asks."""
    positions = start_B[:, None] + jnp.arange(tokens_BS.shape[1])
    layer = layers.DecoderLayer(config, sequence_parallel=False)
    x = stages.embed(config, params, tokens_BS, sequence_parallel=False)
    for index, layer_params in enumerate(params["layers"]):

        def of_layer(q, k, v, index=index):
            return attend(index, q, k, v), None

        x, _ = layers.apply(layer, layer_params, x, positions, of_layer)
    return x

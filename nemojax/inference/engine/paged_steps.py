"""Device programs: prefill, prefill with log-probs, decode; run inside a `shard_map`.

Shape letters: B sequences, S tokens of a sequence, W blocks of a sequence, D width of
the model, V vocabulary, A alternatives of a token.
"""

import jax
import jax.numpy as jnp
from jax import lax

from nemojax.inference.engine import paged_attention, paged_places, sampling
from nemojax.inference.engine.config import EngineConfig
from nemojax.inference.engine.paged_state import (
    DecodeInput,
    PrefillChunk,
    PromptLogProbs,
    Span,
    State,
    StepOutput,
    TopTokens,
)
from nemojax.models import layers, stages
from nemojax.models.config import ModelConfig
from nemojax.parallel import collectives


def prefill(
    config: ModelConfig, engine: EngineConfig, params, state: State, chunk: PrefillChunk
) -> tuple[State, StepOutput]:
    """Puts chunks into the cache; samples the first token where a prompt ends."""
    x, state = _read(config, engine, params, state, chunk.span)
    return _begin(config, params, x, state, chunk)


def prefill_with_log_probs(
    config: ModelConfig, engine: EngineConfig, params, state: State, chunk: PrefillChunk
) -> tuple[State, StepOutput, PromptLogProbs]:
    """Computes as `prefill`, and the log-probs of the prompts' tokens."""
    x, state = _read(config, engine, params, state, chunk.span)
    wanted = jnp.any(chunk.settings.top > 0)

    def score(one):
        x_SD, after_S = one
        logits = _logits(config, params, x_SD)
        return _log_prob(logits, after_S), _top(logits, wanted)

    # One sequence after the other: the logits of all would be larger than all else.
    log_probs = PromptLogProbs(*lax.map(score, (x, chunk.after)))
    return *_begin(config, params, x, state, chunk), log_probs


def decode(
    config: ModelConfig, engine: EngineConfig, params, state: State, inputs: DecodeInput
) -> tuple[State, StepOutput]:
    """Generates tokens of every sequence that has not ended, in up to `rounds` rounds.

    Ends early when no more than `min_live` of the sequences still generate.
    """
    total = engine.rounds * engine.steps

    def goes_on(carry):
        index, state, _ = carry
        live = jnp.sum(inputs.active & ~state.done)
        # At least one round: what runs has to end.
        least = jnp.where(index == 0, 0, inputs.min_live[0])
        return (index < total) & (live > least)

    def advance(carry):
        index, state, output = carry
        state, new = _decode_round(config, engine, params, state, inputs)
        output = jax.tree.map(
            lambda old, part: lax.dynamic_update_slice_in_dim(old, part, index, 0),
            output,
            new,
        )
        return index + engine.steps, state, output

    output = _no_output(config, total, len(state.length))
    return lax.while_loop(goes_on, advance, (jnp.int32(0), state, output))[1:]


def _decode_round(
    config: ModelConfig, engine: EngineConfig, params, state: State, inputs: DecodeInput
) -> tuple[State, StepOutput]:
    """Generates `steps` tokens.

    Their keys and values lie beside the cache until the end of the round: the cache is
    only read meanwhile, and one write a round costs less than one a token. A sequence
    begins with a round, so that its own length alone decides where they lie, and with
    it how its attention rounds.
    """
    length, (_, G, _, K) = state.length, state.keys[0].shape
    tiles = _tiles(engine, jnp.where(inputs.active, length, 0))
    old = [
        paged_attention.cached(*both, inputs.table, tiles, engine.tile)
        for both in zip(state.keys, state.values, strict=True)
    ]

    def step(carry, index):
        state, keys, values = carry[0], list(carry[1]), list(carry[2])
        live = inputs.active & ~state.done

        def attend(layer, q, k, v):
            for all_new, new in ((keys, k), (values, v)):
                all_new[layer] = lax.dynamic_update_slice_in_dim(
                    all_new[layer], new.swapaxes(1, 2), index, 2
                )
            new = keys[layer], values[layer]
            return paged_attention.attention_beside(q, old[layer], length, new, index)

        x = _forward(config, params, state.token[:, None], state.length, attend)
        token, log_prob, top = _next(
            config, params, x[:, 0], state.seen, state.count, inputs.settings
        )
        size = live.astype(jnp.int32)
        count = state.count + size
        state = state._replace(
            token=jnp.where(live, token, state.token),
            length=state.length + size,
            count=count,
            done=state.done | (live & sampling.ends(token, count, inputs.settings)),
            seen=_mark_seen(state.seen, token, live),
        )
        return (state, keys, values), StepOutput(token, log_prob, live, top)

    empty = jnp.zeros((len(length), G, engine.steps, K), config.compute_dtype)
    none = [empty] * config.num_layers
    start = state._replace(keys=(), values=()), none, none
    (after, keys, values), output = lax.scan(step, start, jnp.arange(engine.steps))
    put = _writer(engine, inputs.table, length, after.length - length, engine.steps)
    keys, values = (
        tuple(put(cache, new.swapaxes(1, 2)) for cache, new in zip(*both, strict=True))
        for both in ((state.keys, keys), (state.values, values))
    )
    return after._replace(keys=keys, values=values), output


def _no_output(config: ModelConfig, steps: int, B: int) -> StepOutput:
    token, log_prob = jnp.zeros((steps, B), jnp.int32), jnp.zeros((steps, B))
    A = min(sampling.MAX_TOP, config.vocab_size)
    top = TopTokens(*(jnp.repeat(x[..., None], A, -1) for x in (token, log_prob)))
    return StepOutput(token, log_prob, jnp.zeros((steps, B), bool), top)


def _begin(
    config, params, x_BSD, state: State, chunk: PrefillChunk
) -> tuple[State, StepOutput]:
    """Samples the first tokens of the outputs of prompts that end."""
    span = chunk.span
    last = jnp.maximum(span.size - 1, 0)
    x_BD = jnp.take_along_axis(x_BSD, last[:, None, None], axis=1)[:, 0]
    begins = (span.start == 0)[:, None]
    seen = jnp.where(begins, False, state.seen[chunk.slot])
    inside = paged_places.first_of_each(span.tokens, span.size, seen.shape[1])
    seen = paged_places.put(seen, (jnp.arange(len(seen))[:, None], inside), True)
    count = jnp.zeros_like(span.start)
    token, log_prob, top = _next(config, params, x_BD, seen, count, chunk.settings)
    live = chunk.last & (span.size > 0)
    seen = _mark_seen(seen, token, live)

    slot = paged_places.slots(chunk.slot, len(state.token))

    def put(old, new):
        return paged_places.put(old, slot, new)

    state = state._replace(
        token=put(state.token, token),
        length=put(state.length, span.start + span.size),
        count=put(state.count, count + 1),
        done=put(state.done, ~live | sampling.ends(token, count + 1, chunk.settings)),
        seen=put(state.seen, seen),
    )
    output = StepOutput(token, log_prob, live, top)
    return state, jax.tree.map(lambda part: part[None], output)


def _mark_seen(seen_BV, token_B, live_B):
    """Marks the tokens of live sequences, for the repetition penalty."""
    token_B = jnp.where(live_B, token_B, seen_BV.shape[1])
    return paged_places.put(seen_BV, (jnp.arange(len(token_B)), token_B), True)


def _next(config: ModelConfig, params, x_BD, seen, count, settings):
    """Samples the next token [B]; returns also its log-prob and the likeliest."""
    logits = _logits(config, params, x_BD)
    token = sampling.choose(logits, seen, count, settings)
    return token, _log_prob(logits, token), _top(logits, jnp.any(settings.top > 0))


def _logits(config: ModelConfig, params, x_BD) -> jax.Array:
    """Computes logits, float32 [B, V]."""
    x_BD = stages.final_norm(config, params, x_BD[:, None])
    logits = stages.local_logits(config, params, x_BD)[:, 0]
    return collectives.all_gather(logits, "tensor", 1)[:, : config.vocab_size]


def _log_prob(logits_BV, token_B) -> jax.Array:
    picked = jnp.take_along_axis(logits_BV, token_B[:, None], axis=1)[:, 0]
    return picked - jax.nn.logsumexp(logits_BV, axis=-1)


def _top(logits_BV, wanted) -> TopTokens:
    """Finds the likeliest tokens [B, A], where they are wanted."""
    B, V = logits_BV.shape
    A = min(sampling.MAX_TOP, V)

    def find():
        values, tokens = lax.top_k(logits_BV, A)
        return tokens, values - jax.nn.logsumexp(logits_BV, axis=-1, keepdims=True)

    def nothing():
        return jnp.zeros((B, A), jnp.int32), jnp.zeros((B, A), jnp.float32)

    return TopTokens(*lax.cond(wanted, find, nothing))


def _read(
    config: ModelConfig, engine: EngineConfig, params, state: State, span: Span
) -> tuple[jax.Array, State]:
    """Runs tokens [B, S] through the layers; writes their keys and values."""
    S = span.tokens.shape[1]
    positions = span.start[:, None] + jnp.arange(S)
    tiles = jnp.maximum(1, _tiles(engine, span.start + span.size))
    put = _writer(engine, span.table, span.start, span.size, S)
    keys, values = list(state.keys), list(state.values)

    def attend(layer, q, k, v):
        keys[layer], values[layer] = put(keys[layer], k), put(values[layer], v)
        old = paged_attention.cached(
            keys[layer], values[layer], span.table, tiles, engine.tile
        )
        return paged_attention.attention(q, old, positions, k.shape[2])

    x = _forward(config, params, span.tokens, span.start, attend)
    return x, state._replace(keys=tuple(keys), values=tuple(values))


def _tiles(engine: EngineConfig, length_B) -> jax.Array:
    """Computes the number of tiles that hold the longest sequence."""
    return -(-jnp.max(length_B) // engine.tile)


def _writer(engine: EngineConfig, table_BW, start_B, size_B, S: int):
    """Returns (cache [N, G, Z, K], keys or values [B, S, G, K]) -> cache with them.

    Those from `size` on are not written.
    """
    block, place = paged_places.cached(
        table_BW, start_B, size_B, S, engine.block_size, engine.blocks
    )
    return lambda cache, new: paged_places.put(cache, (block, slice(None), place), new)


def _forward(config: ModelConfig, params, tokens_BS, start_B, attend) -> jax.Array:
    """Computes [B, S, D] after the layers; `attend` gets the index of the layer."""
    positions = start_B[:, None] + jnp.arange(tokens_BS.shape[1])
    layer = layers.DecoderLayer(config, sequence_parallel=False)
    x = stages.embed(config, params, tokens_BS, sequence_parallel=False)
    for index, layer_params in enumerate(params["layers"]):

        def of_layer(q, k, v, index=index):
            return attend(index, q, k, v), None

        x, _ = layers.apply(layer, layer_params, x, positions, of_layer)
    return x

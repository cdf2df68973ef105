"""Batched sampling with a KV cache: prefill and decode loop as one compiled program.

Every row carries its own seed, and the random number of a token depends on that seed
and the token's index alone, so a request's samples do not depend on its neighbours.
Shape letters: B batch, P prompt slots, N new tokens, T = P + N cache slots, L layers,
G key/value heads, K head width.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from nemojax.models import attention, layers, partition, stages
from nemojax.models.config import ModelConfig
from nemojax.parallel import mesh as meshes

BATCH = PartitionSpec("data")


class Samples(NamedTuple):
    """What sampling returns.

    Attributes:
      tokens: int32 [B, N]; after a stop token the row is filled with it.
      lengths: int32 [B]; tokens up to and including the stop token, at most N.
      log_probs: float32 [B, N]; log-probability of each token at temperature 1,
        0 past the length.
    """

    tokens: jax.Array
    lengths: jax.Array
    log_probs: jax.Array


class _Loop(NamedTuple):
    step: jax.Array
    logits: jax.Array  # [B, V] of the next token
    done: jax.Array  # [B]
    samples: Samples
    cache: tuple[jax.Array, jax.Array]  # keys and values [L, B, T, G, K]


@functools.partial(jax.jit, static_argnames=("config", "max_new_tokens", "mesh"))
def generate(
    config: ModelConfig,
    params,
    prompts: jax.Array,
    prompt_lengths: jax.Array,
    seeds: jax.Array,
    *,
    max_new_tokens: int,
    temperature: jax.Array | float,
    stop_id: jax.Array | int,
    mesh: Mesh | None = None,
) -> Samples:
    """Samples continuations; the whole call is one compiled program.

    Args:
      config: sizes.
      params: as `models.forward.init` makes them.
      prompts: int32 [B, P], left-padded.
      prompt_lengths: int32 [B], tokens of each prompt, 1..P.
      seeds: uint32 [B], one per row.
      max_new_tokens: N.
      temperature: divides the logits; 0 is greedy.
      stop_id: the token that ends a row.
      mesh: default one device; B must divide over `data`. `tensor` must be 1.

    Returns:
      Samples.

    Raises:
      ValueError: the mesh splits the model over `tensor`.
    """
    mesh = mesh or meshes.make_mesh()
    if mesh.shape["tensor"] != 1:
        raise ValueError(f"sampling needs tensor=1, got {mesh.shape['tensor']}")
    local = functools.partial(_generate_local, config, max_new_tokens)
    run = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(
            partition.param_specs(params),
            *(BATCH,) * 3,
            *(PartitionSpec(),) * 2,
        ),
        out_specs=BATCH,
        # The decode loop runs a different number of steps on each data shard and
        # holds no collective; its carry types are not worth annotating one by one.
        check_vma=False,
    )
    temperature = jnp.asarray(temperature, jnp.float32)
    stop_id = jnp.asarray(stop_id, jnp.int32)
    return run(params, prompts, prompt_lengths, seeds, temperature, stop_id)


def _generate_local(
    config, max_new_tokens, params, prompts, prompt_lengths, seeds, temperature, stop_id
) -> Samples:
    B, P = prompts.shape
    first_slot = P - prompt_lengths
    uniform = _uniform(seeds, max_new_tokens)
    logits, cache = _prefill(config, params, prompts, first_slot, max_new_tokens)

    def unfinished(loop: _Loop):
        return (loop.step < max_new_tokens) & ~jnp.all(loop.done)

    def advance(loop: _Loop) -> _Loop:
        i = loop.step
        token = choose(loop.logits, uniform[:, i], temperature)
        token = jnp.where(loop.done, stop_id, token)
        log_probs = jax.nn.log_softmax(loop.logits)
        picked = jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0]
        samples = Samples(
            loop.samples.tokens.at[:, i].set(token),
            loop.samples.lengths + ~loop.done,
            loop.samples.log_probs.at[:, i].set(jnp.where(loop.done, 0.0, picked)),
        )
        logits, cache = _decode(
            config, params, token, prompt_lengths + i, first_slot, P + i, loop.cache
        )
        return _Loop(i + 1, logits, loop.done | (token == stop_id), samples, cache)

    empty = Samples(
        jnp.full((B, max_new_tokens), stop_id),
        jnp.zeros(B, jnp.int32),
        jnp.zeros((B, max_new_tokens), jnp.float32),
    )
    start = _Loop(jnp.int32(0), logits, jnp.zeros(B, bool), empty, cache)
    return lax.while_loop(unfinished, advance, start).samples


def choose(logits_BV: jax.Array, uniform_B: jax.Array, temperature) -> jax.Array:
    """Samples by inverting the cumulative distribution; greedy at temperature 0.

    One uniform number a row costs far less than the V Gumbel numbers of the usual
    way, and makes the draw a function of (distribution, number) alone.
    """
    scaled = logits_BV / jnp.where(temperature > 0, temperature, 1.0)
    weights = jnp.exp(scaled - scaled.max(-1, keepdims=True))
    cumulative = jnp.cumsum(weights, axis=-1)
    threshold = uniform_B[:, None] * cumulative[:, -1:]
    sampled = (cumulative <= threshold).sum(-1)
    sampled = jnp.minimum(sampled, logits_BV.shape[-1] - 1)
    greedy = logits_BV.argmax(-1)
    return jnp.where(temperature > 0, sampled, greedy).astype(jnp.int32)


def _uniform(seeds: jax.Array, count: int) -> jax.Array:
    """float32 [B, count] in [0, 1): row b depends on seeds[b] alone."""
    return jax.vmap(lambda seed: jax.random.uniform(jax.random.key(seed), (count,)))(
        seeds
    )


def _prefill(config, params, prompts, first_slot, max_new_tokens):
    """Runs the prompts; returns last-position logits [B, V] and the filled cache."""
    P = prompts.shape[1]
    slots = jnp.arange(P)
    valid = slots[None, :] >= first_slot[:, None]
    positions = jnp.maximum(slots[None, :] - first_slot[:, None], 0)
    mask = attention.causal_mask(valid.astype(jnp.int32))

    def attend(q, k, v):
        grow = ((0, 0), (0, max_new_tokens), (0, 0), (0, 0))
        return attention.attention(q, k, v, mask), (jnp.pad(k, grow), jnp.pad(v, grow))

    layer = layers.DecoderLayer(config, sequence_parallel=False)

    def run_layer(x, layer_params):
        return layers.apply(layer, layer_params, x, positions, attend)

    x = stages.embed(config, params, prompts, sequence_parallel=False)
    x, cache = lax.scan(run_layer, x, params["layers"])
    return _last_logits(config, params, x), cache


def _decode(config, params, token, position, first_slot, slot, cache):
    """One token for every row: next logits [B, V] and the cache with `slot` filled."""
    T = cache[0].shape[2]
    slots = jnp.arange(T)
    mask = (slots[None, :] >= first_slot[:, None]) & (slots[None, :] <= slot)
    layer = layers.DecoderLayer(config, sequence_parallel=False)
    x = stages.embed(config, params, token[:, None], sequence_parallel=False)
    keys, values = cache
    # Unrolled, so that each layer writes its slot of the whole cache in place; a
    # scan would copy the cache of every layer at every token.
    for index in range(config.num_layers):
        layer_params = jax.tree.map(lambda leaf, i=index: leaf[i], params["layers"])

        def attend(q, k, v, index=index):
            nonlocal keys, values
            keys = lax.dynamic_update_slice(keys, k[None], (index, 0, slot, 0, 0))
            values = lax.dynamic_update_slice(values, v[None], (index, 0, slot, 0, 0))
            out = attention.attention(q, keys[index], values[index], mask[:, None, :])
            return out, None

        x, _ = layers.apply(layer, layer_params, x, position[:, None], attend)
    return _last_logits(config, params, x), (keys, values)


def _last_logits(config, params, x_BSD):
    x_BSD = stages.final_norm(config, params, x_BSD[:, -1:])
    return stages.local_logits(config, params, x_BSD)[:, 0]

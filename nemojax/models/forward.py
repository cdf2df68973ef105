"""The model as pure functions: `init`, `logits`, `token_log_probs`, `rewards`.

Each forward function is one `shard_map` over `data, pipe, tensor` around plain
local code, so one CPU device and a pod run the same program. Losses are arithmetic
on the results and never appear here.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from nemojax.models import attention_kernels, heads, layers, partition
from nemojax.models.config import ModelConfig
from nemojax.parallel import collectives, pipeline
from nemojax.parallel.layout import Layout

# Rows are spread over the stages too: each embeds its part of them, and runs the head.
ROWS = ("data", "pipe")
BATCH = PartitionSpec(ROWS)

# What a layer keeps for the backward pass; everything else is computed again.
REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "mlp_preactivation": jax.checkpoint_policies.save_only_these_names(
        "mlp_preactivation"
    ),
}


def init(config: ModelConfig, key: jax.Array, *, num_attributes: int = 0):
    """Fresh float32 parameters, the global tree, with layers stacked on axis 0.

    Args:
      config: sizes.
      key: PRNG key.
      num_attributes: outputs of a reward head beside the LM head; 0 for none.

    Returns:
      `{"embedding", "layers", "final_norm"[, "lm_head"][, "reward_head"]}`; without
      "lm_head" if the embeddings are tied. Call it under `jax.eval_shape` to count
      parameters of any size.
    """
    keys = jax.random.split(key, 3)
    x_BSD = jnp.zeros((1, 1, config.d_model), jnp.float32)
    positions = jnp.zeros((1, 1), jnp.int32)

    def init_layer(layer_key):
        layer = layers.DecoderLayer(config)
        return layer.init(layer_key, x_BSD, positions, lambda q, k, v: (q, None))

    def params_of(module, module_key, *args):
        return module.init(module_key, *args)["params"]

    params = {
        "embedding": params_of(heads.Embedding(config), keys[0], positions),
        "layers": jax.vmap(init_layer)(jax.random.split(keys[1], config.num_layers))[
            "params"
        ],
        "final_norm": params_of(layers.make_norm(config), key, x_BSD),
    }
    if not config.tied_embeddings:
        head = heads.LanguageModelHead(config)
        params["lm_head"] = params_of(head, keys[2], x_BSD)
    if num_attributes:
        head = heads.RewardHead(config.d_model, num_attributes)
        params["reward_head"] = params_of(head, key, x_BSD[0])
    return params


def shapes(config: ModelConfig, *, num_attributes: int = 0):
    """What `init` would give, as `jax.ShapeDtypeStruct`s; nothing is allocated."""
    make = functools.partial(init, config, num_attributes=num_attributes)
    return jax.eval_shape(make, jax.random.key(0))


def param_count(params) -> int:
    """Number of parameters in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def logits(
    config: ModelConfig,
    params,
    tokens,
    *,
    positions=None,
    segment_ids=None,
    layout: Layout | None = None,
) -> jax.Array:
    """Next-token logits, float32 [B, S, V]; for tests and small models.

    Args: as `token_log_probs`.
    """

    def local(params, x_BSD, tokens, segment_ids):
        del tokens, segment_ids
        x_BSD = collectives.all_gather(x_BSD, "tensor", 1)
        return local_logits(config, params, x_BSD)

    out_spec = PartitionSpec(ROWS, None, "tensor")
    run = _sharded(config, local, layout, out_spec)
    return run(params, tokens, positions, segment_ids)[..., : config.vocab_size]


def token_log_probs(
    config: ModelConfig,
    params,
    tokens,
    *,
    positions=None,
    segment_ids=None,
    layout: Layout | None = None,
) -> jax.Array:
    """Log-probability of each token given the earlier tokens of its segment.

    Args:
      config: sizes.
      params: as `init` makes them, or as `partition.pack` does.
      tokens: int32 [B, S].
      positions: int32 [B, S]; default 0..S-1 in each row.
      segment_ids: int32 [B, S]; tokens attend within equal ids only; default: one
        segment a row. Id 0 is padding.
      layout: default: one device. B must divide over `data` times `pipe`, S over
        `tensor`.

    Returns:
      float32 [B, S], aligned with `tokens`: entry t is log p(token t | before t),
      and 0 where a segment starts, since nothing predicts its first token.

    Raises:
      ValueError: an unknown remat policy, or sizes that the layout cannot split; the
        message says what would do.
    """

    def local(params, x_BSD, tokens, segment_ids):
        x_BSD = collectives.all_gather(x_BSD, "tensor", 1)
        B, S, D = x_BSD.shape
        targets = jnp.roll(tokens, -1, axis=1)
        head = heads.LanguageModelHead(config)
        log_probs_N = layers.apply(
            head,
            head_params(params),
            x_BSD.reshape(B * S, D),
            targets.reshape(B * S),
            method="log_probs",
        )
        log_probs = jnp.roll(log_probs_N.reshape(B, S), 1, axis=1)
        continues = segment_ids == jnp.roll(segment_ids, 1, axis=1)
        return jnp.where(continues & (jnp.arange(S) > 0), log_probs, 0.0)

    run = _sharded(config, local, layout, BATCH)
    return run(params, tokens, positions, segment_ids)


def rewards(
    config: ModelConfig,
    params,
    tokens,
    *,
    positions=None,
    segment_ids=None,
    layout: Layout | None = None,
) -> jax.Array:
    """Attribute values at every token (340B report, section 3.1).

    The reward of a response is the row of values at its end token; `pick` reads it.

    Args: as `token_log_probs`; `params` must hold a reward head.

    Returns:
      float32 [B, S, K].
    """

    def local(params, x_BSD, tokens, segment_ids):
        del tokens, segment_ids
        kernel = params["reward_head"]["kernel"]
        head = heads.RewardHead(kernel.shape[0], kernel.shape[1])
        return layers.apply(head, params["reward_head"], x_BSD)

    run = _sharded(config, local, layout, PartitionSpec(ROWS, "tensor"))
    return run(params, tokens, positions, segment_ids)


def pick(values_BSK: jax.Array, last_token_N: jax.Array) -> jax.Array:
    """The values [N, K] at flat token indices `b * S + t`."""
    return values_BSK.reshape(-1, values_BSK.shape[-1])[last_token_N]


def _hidden_states(
    config: ModelConfig,
    params,
    sums,
    plan,
    layout: Layout,
    attention: attention_kernels.CausalAttention,
    batch: tuple[jax.Array, ...],
) -> jax.Array:
    """Final-norm hidden states of local rows, inside a `shard_map`: [B, S / tensor, D].

    Args:
      config: sizes.
      params, sums: as `partition.local_params` gives them.
      plan: `partition.placements` of the whole tree.
      layout: of the step.
      attention: the kernel.
      batch: tokens, positions and segment ids [B, S] of this device's rows.
    """
    tokens, positions, segment_ids = batch
    rows = len(tokens) * layout.size(*ROWS)
    micro_batches = layout.count_micro_batches(rows)

    def split(array):
        array = collectives.all_gather(array, "pipe", 0)
        return array.reshape(micro_batches, -1, *array.shape[1:])

    positions, segment_ids = split(positions), split(segment_ids)
    layer = layers.DecoderLayer(config)
    per_chunk = config.num_layers // layout.chunks

    def gradients_of(chunk):
        """Zeros that take up a chunk's; backwards they are added to all, in place."""
        return jax.tree.map(
            lambda total, weight: jax.lax.dynamic_index_in_dim(
                total, chunk, 0, keepdims=False
            ).astype(weight.dtype),
            sums,
            params["layers"],
        )

    def run_layer(x_BSD, into, chunk, index, m):
        """The weights and the mask are made here, so that remat can make them again."""
        if into is None:  # made here, XLA adds them without a float32 copy of a layer
            into = jax.tree.map(lambda leaf: leaf[0], gradients_of(chunk))
        layer_params = partition.layer_params(
            config, params["layers"], into, plan["layers"], layout, (chunk, index)
        )

        def attend(q, k, v):
            return attention(q, k, v, segment_ids[m]), None

        return layers.apply(layer, layer_params, x_BSD, positions[m], attend)[0]

    policy = REMAT_POLICIES[layout.remat]
    if policy is not None:
        run_layer = jax.checkpoint(run_layer, policy=policy)

    def stage(chunk, m, x_BSD):
        if per_chunk == 1:
            return run_layer(x_BSD, None, chunk, 0, m)
        return jax.lax.scan(
            lambda x, layer: (run_layer(x, layer[1], chunk, layer[0], m), None),
            x_BSD,
            (jnp.arange(per_chunk), gradients_of(chunk)),
        )[0]

    x_MBSD = split(embed(config, params, tokens))
    x_MBSD = pipeline.run(stage, x_MBSD, layout.virtual_stages)
    x_BSD = x_MBSD.reshape(-1, *x_MBSD.shape[2:])
    return final_norm(config, params, collectives.reduce_scatter(x_BSD, "pipe", 0))


def embed(config: ModelConfig, params, tokens, *, sequence_parallel: bool = True):
    """Token embeddings inside a `shard_map`, split over `tensor` along S or whole."""
    x_BSD = layers.apply(heads.Embedding(config), params["embedding"], tokens)
    if sequence_parallel:
        return collectives.reduce_scatter(x_BSD, "tensor", 1)
    return collectives.all_reduce(x_BSD, "tensor")


def final_norm(config: ModelConfig, params, x_BSD: jax.Array) -> jax.Array:
    """The normalisation before the heads."""
    return layers.apply(layers.make_norm(config), params["final_norm"], x_BSD)


def head_params(params):
    """The parameters of the LM head: its own, or the input embedding's if tied."""
    return params.get("lm_head") or {"kernel": params["embedding"]["table"]}


def local_logits(config: ModelConfig, params, x_BSD: jax.Array) -> jax.Array:
    """Inside a `shard_map`: logits of this device's rows of the vocabulary."""
    return layers.apply(heads.LanguageModelHead(config), head_params(params), x_BSD)


def _sharded(
    config: ModelConfig, head: Callable, layout: Layout | None, out_spec: PartitionSpec
):
    """Hidden states and `head` on them under one fully manual `shard_map`.

    Args:
      config: sizes.
      head: (local params, hidden states, tokens, segment ids) -> output, local sizes.
      layout: default: one device.
      out_spec: of the output.
    """
    layout = layout or Layout()
    check_remat(layout.remat)

    def run(params: Any, tokens, positions=None, segment_ids=None):
        batch = _defaults(tokens, positions, segment_ids)
        _check_batch(batch[0], layout)
        partition.check(config, layout)
        attention = attention_kernels.choose(layout.attention, layout.platform)
        if not partition.is_packed(config, params, layout):
            params = partition.pack(config, params, layout)
        plan = partition.placements(params, layout)

        def local(params, *batch):
            params, sums = partition.local_params(config, params, plan, layout)
            x_BSD = _hidden_states(config, params, sums, plan, layout, attention, batch)
            return head(params, x_BSD, batch[0], batch[2])

        return jax.shard_map(
            local,
            mesh=layout.mesh,
            in_specs=(partition.param_specs(params, layout), *(BATCH,) * 3),
            out_specs=out_spec,
            # A Pallas kernel does not say along which axes its result differs.
            check_vma=attention is not attention_kernels.splash,
        )(params, *batch)

    return run


def check_remat(name: str) -> None:
    """Raises ValueError for an unknown remat policy, with those that there are."""
    if name not in REMAT_POLICIES:
        raise ValueError(f"unknown remat {name!r}; one of {', '.join(REMAT_POLICIES)}")


def _check_batch(tokens: jax.Array, layout: Layout) -> None:
    rows, length = tokens.shape
    layout.count_micro_batches(rows)
    tensor = layout.size("tensor")
    if length % tensor:
        raise ValueError(
            f"rows of {length} tokens do not divide over tensor={tensor}: use a "
            f"multiple of {tensor}"
        )


def _defaults(tokens, positions, segment_ids):
    tokens = jnp.asarray(tokens)
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    if segment_ids is None:
        segment_ids = jnp.ones_like(tokens)
    return tokens, jnp.asarray(positions), jnp.asarray(segment_ids)

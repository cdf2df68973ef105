"""The model as pure functions: `init`, `logits`, `token_log_probs`, `rewards`.

Each forward function is one `shard_map` over `data, pipe, tensor` around plain
local code, so one CPU device and a pod run the same program. Losses are arithmetic
on the results and never appear here.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from nemojax.models import heads, layers, sharded, stages
from nemojax.models.config import ModelConfig
from nemojax.parallel import collectives
from nemojax.parallel.layout import Layout


def init(config: ModelConfig, key: jax.Array, *, num_attributes: int = 0):
    """Initialises float32 parameters: the global tree, with layers stacked on axis 0.

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
    """Returns `jax.ShapeDtypeStruct`s of what `init` makes; allocates nothing."""
    make = functools.partial(init, config, num_attributes=num_attributes)
    return jax.eval_shape(make, jax.random.key(0))


def param_count(params) -> int:
    """Counts the parameters in a tree of arrays or shapes."""
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
    """Computes next-token logits, float32 [B, S, V]; for tests and small models.

    Args: as `token_log_probs`.
    """
    layout = dataclasses.replace(layout or Layout(), pipeline="gpipe")
    found = sharded.run(config, _LOGITS, layout, params, tokens, positions, segment_ids)
    return found[..., : config.vocab_size]


def token_log_probs(
    config: ModelConfig,
    params,
    tokens,
    *,
    positions=None,
    segment_ids=None,
    target_indices=None,
    layout: Layout | None = None,
) -> jax.Array:
    """Computes each token's log-probability given its segment's earlier tokens.

    Args:
      config: sizes.
      params: parameters as `init` makes them, or as `partition.pack` does.
      tokens: int32 [B, S].
      positions: int32 [B, S]; default 0..S-1 in each row.
      segment_ids: int32 [B, S]; tokens attend within equal ids only; default: one
        segment a row. Id 0 is padding.
      target_indices: int32 [G, C], the tokens whose log-probs are computed, alone: of
        each of the `Layout.head_groups` G groups of consecutive rows C different flat
        indices into these rows. Default: all tokens.
      layout: layout of the computation; default: one device. B must divide over `data`
        times `pipe`, S over `tensor`.

    Returns:
      float32 [B, S], aligned with `tokens`: entry t is log p(token t | before t),
      and 0 where a segment starts, since nothing predicts its first token, and where
      `target_indices` does not point.

    Raises:
      ValueError: an unknown remat policy, or sizes that the layout cannot split; the
        message says what would do.
    """
    batch = tokens, positions, segment_ids, target_indices
    return sharded.run(config, _LOG_PROBS, layout, params, *batch)


def weighted_log_probs(
    config: ModelConfig,
    params,
    tokens,
    weights,
    *,
    positions=None,
    segment_ids=None,
    target_indices=None,
    layout: Layout | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Computes the weighted sum of `token_log_probs`, and these without gradient.

    For losses that are linear in the log-probs: with `Layout.pipeline="1f1b"` the
    gradient takes one pass through the layers less.

    Args: as `token_log_probs`, and
      weights: float32 [B, S]; where it is 0 the log-prob is not looked at.
    """
    batch = tokens, positions, segment_ids, target_indices
    return sharded.run_weighted(config, _LOG_PROBS, layout, params, weights, *batch)


def rewards(
    config: ModelConfig,
    params,
    tokens,
    *,
    positions=None,
    segment_ids=None,
    layout: Layout | None = None,
) -> jax.Array:
    """Computes attribute values at every token (340B report, section 3.1).

    The reward of a response is the row of values at its end token; `pick` reads it.

    Args: as `token_log_probs`; `params` must hold a reward head.

    Returns:
      float32 [B, S, K].
    """
    return sharded.run(config, _REWARDS, layout, params, tokens, positions, segment_ids)


def pick(values_BSK: jax.Array, last_token_N: jax.Array) -> jax.Array:
    """Returns the values [N, K] at flat token indices `b * S + t`."""
    return values_BSK.reshape(-1, values_BSK.shape[-1])[last_token_N]


def _head(config: ModelConfig, params, over):
    del config
    return heads.share(stages.head_params(params), over)


def _log_probs(config: ModelConfig, head, x_BSD, batch: sharded.Text, over):
    x_BSD = collectives.all_gather(x_BSD, "tensor", 1)
    tokens, segment_ids, target_indices = batch
    B, S, D = x_BSD.shape
    x_ND, tokens_N = x_BSD.reshape(B * S, D), tokens.reshape(B * S)

    def found(x_ND, targets_N):
        return heads.log_probs(
            config, head["kernel"], x_ND, targets_N, over, head.get("kernel_scale")
        )

    if target_indices is None:
        log_probs_N = jnp.roll(found(x_ND, jnp.roll(tokens_N, -1)), 1)
    else:
        G, _ = target_indices.shape
        first_G1 = jnp.arange(G)[:, None] * (B * S // G)
        targets = (first_G1 + target_indices).reshape(-1)
        promise = {"unique_indices": True, "mode": "promise_in_bounds"}
        before = jnp.where(targets == 0, B * S, targets) - 1
        log_probs_C = found(x_ND.at[before].get(**promise), tokens_N[targets])
        log_probs_N = jnp.zeros(B * S).at[targets].set(log_probs_C, **promise)
    log_probs = log_probs_N.reshape(B, S)
    continues = jnp.arange(S) > 0
    if segment_ids is not None:
        continues &= segment_ids == jnp.roll(segment_ids, 1, axis=1)
    return jnp.where(continues, log_probs, 0.0)


def _logits(config: ModelConfig, params, x_BSD, batch: sharded.Text, over):
    del batch, over
    x_BSD = collectives.all_gather(x_BSD, "tensor", 1)
    return stages.local_logits(config, params, x_BSD)


def _rewards(config: ModelConfig, params, x_BSD, batch: sharded.Text, over):
    """Applies the reward head, in 1F1B on the first stage alone: it is small."""
    del config, batch
    head = heads.RewardHead(*params["kernel"].shape)
    values = layers.apply(head, params, x_BSD)
    if "pipe" not in over:
        return values
    first = collectives.axis_index("pipe") == 0
    return collectives.all_reduce(jnp.where(first, values, 0), "pipe")


_LOGITS = sharded.Head(
    params=lambda config, params, over: params,
    values=_logits,
    spec=PartitionSpec(stages.ROWS, None, "tensor"),
)
_LOG_PROBS = sharded.Head(params=_head, values=_log_probs)
_REWARDS = sharded.Head(
    params=lambda config, params, over: params["reward_head"],
    values=_rewards,
    spec=PartitionSpec(stages.ROWS, "tensor"),
)

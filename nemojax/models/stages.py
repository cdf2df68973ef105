"""Work of one device inside the forward functions' `shard_map`, with local sizes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from nemojax.errors import UserError
from nemojax.models import attention_kernels, heads, layers, partition
from nemojax.models.config import ModelConfig
from nemojax.parallel import collectives, gpipe
from nemojax.parallel.layout import Layout

# Rows are spread over the stages too: each embeds its part of them, and runs the head.
ROWS = ("data", "pipe")

# Names of what a layer keeps for the backward pass; all else is computed again.
REMAT_POLICIES: dict[str, tuple[str, ...] | None] = {
    # Everything; also a copy of the weights for each micro-batch that uses them.
    "none": None,
    "full": (),
    "mlp_preactivation": ("mlp_preactivation",),
    # Every matrix product; norms, activations and attention scores are made again.
    "selective": ("qkv", "attention", "residual", "mlp_preactivation"),
}


def check_remat(name: str) -> None:
    """Raises ValueError for an unknown remat policy, with those that there are."""
    if name not in REMAT_POLICIES:
        raise UserError(f"unknown remat {name!r}; one of {', '.join(REMAT_POLICIES)}")


def remat(function, name: str, kernel: attention_kernels.Kernel):
    """Returns a function of a layer that keeps what the remat policy says.

    Where attention's output is kept and its kernel has a primitive, the results of that
    are kept instead: the output, and what the kernel's backward pass needs beside it.
    """
    names = REMAT_POLICIES[name]
    if names is None:
        return function
    policies = jax.checkpoint_policies
    if not kernel.primitive or "attention" not in names:
        policy = policies.save_only_these_names(*names)
    else:
        policy = policies.save_from_both_policies(
            policies.save_only_these_names(*(set(names) - {"attention"})),
            lambda primitive, *_, **__: primitive.name == kernel.primitive,
        )
    return jax.checkpoint(function, policy=policy)


def hidden_states(
    config: ModelConfig, params, plan, layout: Layout, batch: tuple[jax.Array, ...]
) -> tuple[Any, jax.Array]:
    """Computes the last layer's output for local rows [B, S / tensor, D].

    Returns the local parameters with it.

    Args:
      config: sizes.
      params: this device's part of a tree.
      plan: `partition.placements` of the whole tree.
      layout: layout of the step.
      batch: tokens, positions and segment ids (or None) [B, S] of this device's rows.
    """
    params, sums = partition.local_params(config, params, plan, layout)
    tokens, positions, segment_ids = batch
    split = functools.partial(micro_batches, layout)
    apply = make_stage(
        config, params["layers"], plan, layout,
        split(positions), jax.tree.map(split, segment_ids),
    )  # fmt: skip

    def stage(chunk, m, x_BSD):
        def of_chunk():
            """Makes zeros that take up a chunk's gradients.

            Backwards they are added to all, in place.
            """
            return jax.tree.map(
                lambda total: jax.lax.dynamic_index_in_dim(
                    total, chunk, 0, keepdims=False
                ),
                sums,
            )

        return apply(of_chunk, chunk, m, x_BSD)

    x_MBSD = split(embed(config, params, tokens))
    x_MBSD = gpipe.run(stage, x_MBSD, layout.virtual_stages)
    x_BSD = x_MBSD.reshape(-1, *x_MBSD.shape[2:])
    return params, collectives.reduce_scatter(x_BSD, "pipe", 0)


def micro_batches(layout: Layout, array: jax.Array, gather=collectives.all_gather):
    """Cuts this stage's rows into the micro-batches [M, B, ...] of all stages."""
    count = layout.count_micro_batches(len(array) * layout.size(*ROWS))
    array = gather(array, "pipe", 0)
    return array.reshape(count, -1, *array.shape[1:])


def attention_of(
    config: ModelConfig, layout: Layout, length: int
) -> attention_kernels.Kernel:
    """Returns the attention kernel for rows of so many tokens."""
    case = attention_kernels.Case(
        layout.platform,
        config.compute_dtype,
        config.head_dim,
        length,
        layout.capability,
        layout.pipeline,
    )
    return attention_kernels.choose(layout.attention, case)


def make_stage(
    config: ModelConfig, params, plan, layout: Layout, positions_MBS, segment_ids_MBS
):
    """Makes `(sums, chunk, m, x_BSD) -> x_BSD`: the layers of one of its chunks.

    `sums()` gives a chunk's part of what takes the gradients up.

    Args:
      config: sizes.
      params: the branch "layers", as `partition.local_params` gives it.
      plan: `partition.placements` of the whole tree.
      layout: layout of the step.
      positions_MBS: positions of all micro-batches.
      segment_ids_MBS: segment ids of all micro-batches; None: a row is one segment.
    """
    layer = layers.DecoderLayer(config)
    kernel = attention_of(config, layout, positions_MBS.shape[-1])
    per_chunk = config.num_layers // layout.chunks

    def stage(sums, chunk, m, x_BSD):
        def cast():
            return jax.tree.map(
                lambda total, weight: total.astype(weight.dtype), sums(), params
            )

        def run_layer(x_BSD, into, index, chunk, m):
            """Makes weights and mask here, so that remat can make them again."""
            if into is None:  # made here, XLA adds them without a copy in float32
                into = jax.tree.map(lambda leaf: leaf[0], cast())
            layer_params = partition.layer_params(
                config, params, into, plan["layers"], layout, (chunk, index)
            )

            def attend(q, k, v):
                ids = jax.tree.map(lambda ids_MBS: ids_MBS[m], segment_ids_MBS)
                return kernel.run(q, k, v, ids), None

            return layers.apply(layer, layer_params, x_BSD, positions_MBS[m], attend)[0]

        run_layer = remat(run_layer, layout.remat, kernel)
        if per_chunk == 1:
            return run_layer(x_BSD, None, 0, chunk, m)
        return jax.lax.scan(
            lambda x, layer: (run_layer(x, layer[1], layer[0], chunk, m), None),
            x_BSD,
            (jnp.arange(per_chunk), cast()),
        )[0]

    return stage


def embed(config: ModelConfig, params, tokens, *, sequence_parallel: bool = True):
    """Embeds tokens inside a `shard_map`, split over `tensor` along S or whole."""
    x_BSD = layers.apply(heads.Embedding(config), params["embedding"], tokens)
    if sequence_parallel:
        return collectives.reduce_scatter(x_BSD, "tensor", 1)
    return collectives.all_reduce(x_BSD, "tensor")


def final_norm(config: ModelConfig, params, x_BSD: jax.Array) -> jax.Array:
    """Applies the normalisation before the heads."""
    return layers.apply(layers.make_norm(config), params["final_norm"], x_BSD)


def head_params(params):
    """Returns the LM head's parameters: its own, or the tied input embedding's."""
    return params.get("lm_head") or {"kernel": params["embedding"]["table"]}


def local_logits(config: ModelConfig, params, x_BSD: jax.Array) -> jax.Array:
    """Computes logits of this device's rows of the vocabulary in a `shard_map`."""
    return layers.apply(heads.LanguageModelHead(config), head_params(params), x_BSD)

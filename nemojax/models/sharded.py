"""The forward functions under one fully manual `shard_map`, and their gradients.

With GPipe the gradient is autodiff's. 1F1B must know the loss while
micro-batches are still on their way, so it is a function of its own: given the
derivatives of the loss by all values it gives the values and the gradient.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from nemojax.errors import UserError
from nemojax.models import partition, stages
from nemojax.models.config import ModelConfig
from nemojax.parallel import collectives, one_f_one_b
from nemojax.parallel.layout import Layout

BATCH = PartitionSpec(stages.ROWS)


class Text(NamedTuple):
    """Rows whose hidden states a head is given.

    Attributes:
      tokens: int32 [B, S].
      segment_ids: int32 [B, S]; None: a row is one segment.
      target_indices: int32 [G, C], see `forward.token_log_probs`; None: all tokens.
    """

    tokens: jax.Array
    segment_ids: jax.Array | None
    target_indices: jax.Array | None


class Head(NamedTuple):
    """Values that are computed from the last layer's output.

    Attributes:
      params: (config, parameters without layers, over) -> those of the head; `over`
        names the mesh axes that share its work: `tensor`, in 1F1B also `pipe`.
      values: (config, head parameters, x [B, S / tensor, D] after the final norm,
        `Text`, over) -> values, of rows in dim 0.
      spec: PartitionSpec of the values of all rows.
    """

    params: Callable[..., Any]
    values: Callable[..., jax.Array]
    spec: PartitionSpec = BATCH


def run(config: ModelConfig, head: Head, layout: Layout | None, params, *batch) -> Any:
    """Returns the head's values for all rows.

    Args:
      config: sizes.
      head: values to compute.
      layout: layout of the computation; default: one device.
      params: plain or packed.
      batch: tokens, positions and segment ids [B, S], and target indices [G, C]; the
        last three may be None.

    Raises:
      UserError: sizes that the layout cannot split, or an unknown name.
    """
    layout, params, batch = _prepared(config, layout, params, *batch)
    if layout.pipeline == "1f1b":
        return _replayed(config, head, layout, params, batch)
    return _values(config, head, layout, params, batch)


def run_weighted(
    config: ModelConfig, head: Head, layout: Layout | None, params, weights, *batch
) -> Any:
    """Returns the weighted sum of `run`'s values, and the values, without gradient.

    Where 1F1B goes through the layers a second time for the gradient of `run`, this is
    one pass, since a sum's derivatives are known before it.
    """
    layout, params, batch = _prepared(config, layout, params, *batch)
    if layout.pipeline == "1f1b":
        return _weighted(config, head, layout, params, batch, weights)
    values = _values(config, head, layout, params, batch)
    return _sum(values, weights), jax.lax.stop_gradient(values)


def _sum(values: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(weights == 0, 0.0, values * weights))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _replayed(config, head, layout, params, batch):
    return _values(config, head, layout, params, batch)


def _replayed_forward(config, head, layout, params, batch):
    return _values(config, head, layout, params, batch), (params, batch)


def _replayed_backward(config, head, layout, saved, cotangents):
    params, batch = saved
    return _gradients(config, head, layout, params, batch, cotangents)[1], None


_replayed.defvjp(_replayed_forward, _replayed_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _weighted(config, head, layout, params, batch, weights):
    values = _values(config, head, layout, params, batch)
    return _sum(values, weights), values


def _weighted_forward(config, head, layout, params, batch, weights):
    values, gradients = _gradients(config, head, layout, params, batch, weights)
    return (_sum(values, weights), values), gradients


def _weighted_backward(config, head, layout, gradients, cotangents):
    del config, head, layout
    return jax.tree.map(lambda leaf: leaf * cotangents[0], gradients), None, None


_weighted.defvjp(_weighted_forward, _weighted_backward)


# Compiled also where a caller does not: op by op it takes ten times as long.
@functools.partial(jax.jit, static_argnums=(0, 1, 2), inline=True)
def _values(config: ModelConfig, head: Head, layout: Layout, params, batch):
    plan = partition.placements(params, layout)
    over = ("tensor",)

    def local(params, *batch):
        params, x_BSD = stages.hidden_states(config, params, plan, layout, batch[:3])
        x_BSD = stages.final_norm(config, params, x_BSD)
        tops = head.params(config, params, over)
        text = Text(batch[0], *batch[2:])
        return head.values(config, tops, x_BSD, text, over)

    return jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(partition.param_specs(params, layout), *(BATCH,) * 4),
        out_specs=head.spec,
        check_vma=stages.attention_of(config, layout, batch[0].shape[1]).varying,
    )(params, *batch)


def _gradients(config, head: Head, layout: Layout, params, batch, cotangents):
    """Returns values, and a gradient like `params`, by interleaved 1F1B."""
    plan = partition.placements(params, layout)
    specs = partition.param_specs(params, layout)
    over = ("pipe", "tensor")

    def local(params, cotangents, tokens, positions, *text):
        def given(params):
            rest, sums = partition.local_params(config, params, plan, layout)
            layers = rest.pop("layers")
            return (rest, sums), layers

        (rest, sums), back_to_params, layers = jax.vjp(given, params, has_aux=True)

        def ends(rest):
            """Applies the parameters outside the layers: embedding, heads' input."""
            x_MBSD = split(stages.embed(config, rest, tokens))
            tops = head.params(config, rest, over)
            return x_MBSD, (tops, {"final_norm": rest["final_norm"]})

        split = functools.partial(stages.micro_batches, layout)
        equal = functools.partial(split, gather=collectives.all_gather_equal)
        (x_MBSD, tops), back_to_rest = jax.vjp(ends, rest)
        positions_MBS, text_M = jax.tree.map(equal, (positions, Text(tokens, *text)))
        stage = stages.make_stage(
            config, layers, plan, layout, positions_MBS, text_M.segment_ids
        )

        def values(tops, m, x_BSD):
            tops, norm = tops
            x_BSD = stages.final_norm(config, norm, x_BSD)
            text = jax.tree.map(lambda leaf: leaf[m], text_M)
            return head.values(config, tops, x_BSD, text, over)

        found = one_f_one_b.run(
            lambda into, *rest: stage(lambda: into, *rest),
            values,
            {"weights": layers, "batch": (positions_MBS, text_M.segment_ids)},
            sums, tops, x_MBSD, equal(cotangents), layout.virtual_stages,
        )  # fmt: skip
        d_tops = jax.tree.map(lambda d, p: d.astype(p.dtype), found.head, tops)
        (d_rest,) = back_to_rest((found.inputs, d_tops))
        (d_params,) = back_to_params((d_rest, found.layers))
        out = found.values.reshape(-1, *found.values.shape[2:])
        own = collectives.axis_index("pipe") * len(tokens)
        return jax.lax.dynamic_slice_in_dim(out, own, len(tokens)), d_params

    return jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(specs, head.spec, *(BATCH,) * 4),
        out_specs=(head.spec, specs),
    )(params, cotangents, *batch)


def _prepared(
    config: ModelConfig,
    layout: Layout | None,
    params,
    tokens,
    positions,
    segment_ids,
    target_indices=None,
):
    layout = layout or Layout()
    stages.check_remat(layout.remat)
    tokens = jnp.asarray(tokens)
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    _check_batch(tokens, target_indices, layout)
    partition.check(config, layout)
    if not partition.is_packed(config, params, layout):
        params = partition.pack(config, params, layout)
    batch = tokens, positions, segment_ids, target_indices
    return layout, params, jax.tree.map(jnp.asarray, batch)


def _check_batch(
    tokens: jax.Array, target_indices: jax.Array | None, layout: Layout
) -> None:
    rows, length = tokens.shape
    groups = layout.head_groups(rows)
    if target_indices is not None and len(target_indices) != groups:
        raise UserError(
            f"target indices of {len(target_indices)} groups of rows: this layout has "
            f"{groups}, see Layout.head_groups"
        )
    tensor = layout.size("tensor")
    if length % tensor:
        raise UserError(
            f"rows of {length} tokens do not divide over tensor={tensor}: use a "
            f"multiple of {tensor}"
        )

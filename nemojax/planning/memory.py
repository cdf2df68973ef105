"""Bytes that a training step needs on each device, by what they are for."""

import functools
import math
from typing import Any

import jax
import numpy as np

from nemojax.models import forward, partition
from nemojax.models.config import ModelConfig
from nemojax.models.partition import Placement
from nemojax.parallel.layout import Layout
from nemojax.planning import counts
from nemojax.planning.alignment import Alignment
from nemojax.planning.scenario import Scenario

KINDS = {
    "weights": "parameters, this device's share; float32 where they are trained",
    "optimizer": "two float32 moments of Adam",
    "reference": "the reference policy, where it is in the step",
    "working_weights": "the weights that a step computes with",
    "gradients": "sums over micro-batches",
    "activations": "what the layers keep for the backward pass",
    "pipeline": "gradients of the micro-batches that entered the layers",
    "working_memory": "one layer's intermediate results, or the head's",
}


def per_device(scenario: Scenario) -> dict[str, float]:
    """Estimates bytes by kind, as `KINDS` explains them; `--compile` measures.

    The sum is what the layers' backward pass needs, or the head if that is more; of
    the two embeddings only one is there then.
    """
    config, layout = scenario.config, scenario.layout
    compute = np.dtype(config.compute_dtype).itemsize
    sums = compute if scenario.spec.accumulate == "compute" else 4
    alignment = scenario.alignment
    adapters = alignment is not None and alignment.rank > 0
    placing = Layout(
        layout.mesh, virtual_stages=layout.virtual_stages, zero=layout.zero
    )
    pairs = _leaves(config, placing, alignment)
    stored = sum(_numbers(leaf, place, scenario) for leaf, place in pairs)
    working = gradients = table = 0.0
    for leaf, place in pairs:
        share = _numbers(leaf, place, scenario)
        whole = share * layout.size(*place.zero_axes)
        gathered = bool(place.zero_axes) and not (
            place.stacked and scenario.spec.zero == 3
        )
        if place.stacked and adapters:
            working += whole * compute if gathered else 0
        elif place.stacked:
            working += whole * compute if gathered else 0
            gradients += (whole if gathered else share) * sums
            gradients += share * 4 if scenario.passes > 1 else 0
        else:
            table = max(table, whole * compute if gathered else 0)
            gradients += 0 if adapters else share * 4
    working += table
    buffer = _pipeline(scenario)
    layer, head = _layer(scenario), _head(scenario)
    if scenario.spec.pipeline == "1f1b":  # both at once, in a tick
        work = layer + head
    else:
        work = max(layer, head + table + buffer - gradients)
    small = 0.0  # adapters are on every device
    if alignment is not None and adapters:
        small = sum(map(math.prod, _adapters(config, alignment)))
        gradients += 4.0 * small
    in_step = alignment is not None and alignment.in_step and not adapters
    return {
        "weights": (compute if adapters else 4.0) * stored + 4.0 * small,
        "optimizer": 8.0 * (small if adapters else stored),
        "reference": compute * stored if in_step else 0.0,
        "working_weights": working,
        "gradients": gradients,
        "activations": _kept(scenario) * scenario.waiting * scenario.layers_per_chunk,
        "pipeline": buffer,
        "working_memory": work,
    }


@functools.cache
def _shapes(config: ModelConfig, alignment: Alignment | None) -> Any:
    return forward.shapes(config) if alignment is None else alignment.shapes(config)


@functools.cache
def _adapters(config: ModelConfig, alignment: Alignment) -> list[tuple[int, ...]]:
    trained = alignment.trained(config, alignment.shapes(config))
    return [leaf.shape for leaf in jax.tree.leaves(trained)]


@functools.cache
def _leaves(
    config: ModelConfig, layout: Layout, alignment: Alignment | None
) -> list[tuple[Any, Placement]]:
    """Yields shape and placement of every parameter."""
    params = partition.pack(config, _shapes(config, alignment), layout)
    plan = partition.placements(params, layout)
    return list(zip(jax.tree.leaves(params), jax.tree.leaves(plan), strict=True))


def _numbers(leaf: Any, place: Placement, scenario: Scenario) -> float:
    """Counts the elements of a leaf on each device."""
    axes = [axis for entry in place.spec for axis in partition.axes_of(entry)]
    return math.prod(leaf.shape) / scenario.layout.size(*axes)


def _kept(scenario: Scenario) -> float:
    """Returns the bytes a layer keeps of a micro-batch: its input, by policy more."""
    config = scenario.config
    item = np.dtype(config.compute_dtype).itemsize
    tokens = scenario.rows * scenario.length
    boundary = tokens * config.d_model / scenario.spec.tensor
    gates = 2 if config.activation == "swiglu" else 1
    hidden = gates * tokens * config.d_ff / scenario.spec.tensor
    heads = 2 * config.num_heads + 2 * config.num_kv_heads
    mixed = tokens * heads * config.head_dim / scenario.spec.tensor
    weights = counts.layer_matrix_parameters(config) / scenario.spec.tensor
    extra = {
        "full": 0.0,
        "mlp_preactivation": hidden,
        "selective": hidden + mixed + boundary,
        # Without remat: norms' outputs and sums (gathered), queries to mixtures, the
        # activation, the scores of every head, and the weights.
        "none": hidden * 3
        + mixed
        + 4 * tokens * config.d_model
        + 3 * tokens * scenario.length * config.num_heads / scenario.spec.tensor
        + weights,
    }
    return item * (boundary + extra[scenario.spec.remat])


def _pipeline(scenario: Scenario) -> float:
    """Estimates the bytes of a replica's micro-batches as they enter the layers.

    1F1B holds their gradients too.
    """
    both = scenario.spec.pipeline == "1f1b"
    if scenario.spec.pipe * scenario.spec.virtual_stages == 1 and not both:
        return 0.0
    item = np.dtype(scenario.config.compute_dtype).itemsize
    sequences = scenario.global_batch / scenario.spec.data
    tokens = sequences * scenario.length / scenario.spec.tensor
    return (2 if both else 1) * item * tokens * scenario.config.d_model


def _layer(scenario: Scenario) -> float:
    """Estimates the bytes of the backward pass of one layer and micro-batch."""
    config = scenario.config
    item = np.dtype(config.compute_dtype).itemsize
    tokens = scenario.rows * scenario.length
    block = min(512, scenario.length)
    scores = 3 * 4 * scenario.rows * block * scenario.length * config.num_heads
    hidden = 3 * item * tokens * config.d_ff
    return (scores + hidden) / scenario.spec.tensor + 3 * item * tokens * config.d_model


def _head(scenario: Scenario) -> float:
    """Estimates the bytes of logits, their gradient and a device's hidden states."""
    config = scenario.config
    item = np.dtype(config.compute_dtype).itemsize
    share = config.vocab_size / scenario.spec.tensor
    if scenario.spec.pipeline == "1f1b":
        tokens, share = scenario.rows * scenario.length, share / scenario.spec.pipe
    else:
        passes = scenario.passes * scenario.spec.data * scenario.spec.pipe
        tokens = scenario.global_batch * scenario.length / passes
    if scenario.alignment is not None and scenario.alignment.stage == "reward":
        return tokens * 3 * item * config.d_model
    chunk = min(config.vocab_chunk, share)
    return tokens * (2 * 4 * chunk + 3 * item * config.d_model)

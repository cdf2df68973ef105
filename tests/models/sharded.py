"""A sharded model against the un-sharded one; also a program, for large meshes.

python -m tests.models.sharded DATA PIPE TENSOR

On so many CPU devices, prints for each pipeline, number of virtual stages and shape of
model the largest difference of any gradient, relative to its largest entry.
"""

import dataclasses
import functools
import os
import sys

import jax
import numpy as np

from nemojax.models import forward, partition
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import PIPELINES, Layout
from tests.models.conftest import TINY

TOLERANCE = 2e-6
# Vocabulary 63 is padded where tensor=2; heads times width is not d_model.
DEEP = dataclasses.replace(TINY, num_layers=8, vocab_size=63, init_std=0.05)
LLAMA = dataclasses.replace(
    DEEP, norm="rmsnorm", activation="swiglu", rotary_fraction=1.0, tied_embeddings=True
)
LENGTH = 16


@functools.cache
def random_params(config, num_attributes=5):
    """Every parameter matters: norms, biases and heads are not zero."""
    rng = np.random.default_rng(0)
    init = functools.partial(forward.init, config, num_attributes=num_attributes)
    return jax.tree.map(
        lambda leaf: leaf + rng.normal(0, 0.02, leaf.shape).astype(np.float32),
        jax.jit(init)(jax.random.key(0)),
    )


@functools.cache
def case(rows=16):
    """Tokens and packed segments with padding, and weights of every output."""
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, 63, (rows, LENGTH)).astype(np.int32)
    cuts = np.sort(rng.integers(1, LENGTH, (rows, 2)), axis=1)
    columns = np.arange(LENGTH)
    segments = 1 + (columns >= cuts[:, :1]) - 2 * (columns >= cuts[:, 1:])
    weights = (rng.normal(size=(rows, LENGTH)), rng.normal(size=(rows, LENGTH, 5)))
    return tokens, np.maximum(segments, 0).astype(np.int32), weights


def loss(config, params, layout, rows):
    """A weighted sum of all log-probs, and of all rewards if there are any."""
    tokens, segments, (weights, reward_weights) = case(rows)
    options = {"segment_ids": segments, "layout": layout}
    log_probs = forward.token_log_probs(config, params, tokens, **options)
    total = (log_probs * weights).sum()
    if "reward_head" in params:
        rewards = forward.rewards(config, params, tokens, **options)
        total += (rewards * reward_weights).sum()
    return total


def evaluated(config, layout, rows=16, num_attributes=5):
    """The loss and its gradient, as a plain tree."""
    params = random_params(config, num_attributes)
    shapes = forward.shapes(config, num_attributes=num_attributes)
    shardings = partition.param_shardings(
        partition.pack(config, shapes, layout), layout
    )
    packed = jax.device_put(partition.pack(config, params, layout), shardings)
    program = jax.jit(
        jax.value_and_grad(functools.partial(loss, config), argnums=0),
        static_argnums=(1, 2),
    )
    value, gradient = program(packed, layout, rows)
    return value, partition.unpack(config, jax.device_get(gradient), layout)


@functools.cache
def reference(config, rows, num_attributes):
    return evaluated(config, Layout(), rows, num_attributes)


def errors(config, layout, rows=16, num_attributes=5):
    """Relative differences: of the loss, and of each gradient to its largest entry."""
    value, gradient = evaluated(config, layout, rows, num_attributes)
    expected, expected_gradient = reference(config, rows, num_attributes)
    found = {"loss": abs(float(value) / float(expected) - 1)}
    for (path, ours), one in zip(
        jax.tree_util.tree_leaves_with_path(gradient),
        jax.tree.leaves(expected_gradient),
        strict=True,
    ):
        largest = np.abs(one).max()
        assert largest > 0, path
        error = np.abs(np.asarray(ours) - one).max() / largest
        found[jax.tree_util.keystr(path)] = float(error)
    return found


def check(config, layout, **options):
    found = errors(config, layout, **options)
    assert max(found.values()) <= TOLERANCE, found


# (virtual stages, options): every number of stages with another way to keep weights
# and activations.
VARIANTS = (
    (1, {"zero": 0, "remat": "none"}),
    (2, {"zero": 1, "remat": "selective"}),
    (4, {"zero": 3, "remat": "full"}),
)


def main() -> int:
    data, pipe, tensor = (int(size) for size in sys.argv[1:])
    count = f"--xla_force_host_platform_device_count={data * pipe * tensor}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}"
    jax.config.update("jax_disable_most_optimizations", True)
    mesh = meshes.make_mesh(data, pipe, tensor)
    sizes = {"num_layers": 4 * pipe, "num_heads": 8, "num_kv_heads": 8}
    worst = 0.0
    for name, base in (("nemotron", DEEP), ("llama", LLAMA)):
        config = dataclasses.replace(base, **sizes)
        for pipeline in PIPELINES:
            for virtual_stages, options in VARIANTS:
                layout = Layout(
                    mesh, virtual_stages=virtual_stages, pipeline=pipeline, **options
                )
                found = errors(config, layout, rows=2 * data * pipe)
                place = max(found, key=found.__getitem__)
                print(
                    f"{data}x{pipe}x{tensor} {name} {pipeline} V={virtual_stages}: "
                    f"{found[place]:.1e} at {place}",
                    flush=True,
                )
                worst = max(worst, found[place])
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())

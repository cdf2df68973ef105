"""What the compiler makes of a pipelined step: collectives, and what loops compute."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.models import forward, partition
from nemojax.models.config import ModelConfig
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from nemojax.planning import hlo

# Weights are large beside activations, so that a size tells one from the other.
WIDE = ModelConfig(
    vocab_size=64,
    num_layers=8,
    d_model=64,
    num_heads=4,
    num_kv_heads=4,
    head_dim=16,
    d_ff=1024,
    compute_dtype="bfloat16",
)


def loss(params, tokens, layout):
    return forward.token_log_probs(WIDE, params, tokens, layout=layout).sum()


@functools.cache
def compiled(layout, config=WIDE, micro_batches=16):
    """The compiled gradient."""
    shapes = partition.pack(config, forward.shapes(config), layout)
    params = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        shapes,
        partition.param_shardings(shapes, layout),
    )
    rows = micro_batches * layout.size("data")
    tokens = jax.ShapeDtypeStruct((rows, 8), jnp.int32)
    gradient = jax.jit(jax.grad(loss), static_argnums=2)
    return gradient.lower(params, tokens, layout).compile()


def program(layout):
    return hlo.Program(compiled(layout).as_text())


LAYOUTS = {
    "one layer a chunk": Layout(
        meshes.make_mesh(1, 4, 2), virtual_stages=2, zero=1, remat="full"
    ),
    "two layers a chunk": Layout(
        meshes.make_mesh(2, 2, 2), virtual_stages=2, zero=1, remat="full"
    ),
    "1f1b": Layout(
        meshes.make_mesh(2, 2, 2),
        virtual_stages=2,
        zero=1,
        remat="selective",
        pipeline="1f1b",
    ),
}


@pytest.mark.parametrize("name", ["one layer a chunk", "two layers a chunk"])
def test_a_tick_has_one_exchange_and_a_layer_those_of_sequence_parallelism(name):
    """Forwards: 2 gathers, 2 scatters, 1 exchange. Backwards: the same, and what the
    layer needs to be computed again: 2 gathers and the first scatter."""
    kinds = collections.Counter(
        found.opcode for found in program(LAYOUTS[name]).collectives(in_loops=True)
    )
    assert kinds == {
        "all-gather": 2 + 2 + 2,
        "reduce-scatter": 2 + 2 + 1,
        "collective-permute": 1 + 1,
    }
    outside = program(LAYOUTS[name]).collectives(in_loops=False)
    assert not any(found.opcode == "collective-permute" for found in outside)


def test_a_tick_of_1f1b_has_the_same_both_ways_and_the_head():
    """Each pass is in two of the three loops. A gather and a scatter are the head's,
    and 4 sums: over the vocabulary, to all stages and back. A layer gathers its inputs
    again backwards, but computes no sum again."""
    kinds = collections.Counter(
        found.opcode for found in program(LAYOUTS["1f1b"]).collectives(in_loops=True)
    )
    assert kinds == {
        "all-gather": 2 * 2 + 2 * (2 + 2) + 1,
        "reduce-scatter": 2 * 2 + 2 * 2 + 1,
        "collective-permute": 2 + 2,
        "all-reduce": 4,
    }


@pytest.mark.slow
def test_memory_of_1f1b_grows_with_the_micro_batches_by_their_inputs_alone():
    """[M, S, D] of what enters the layers, or its gradient; weights are not kept."""

    def temporary(pipeline, micro_batches):
        layout = Layout(
            meshes.make_mesh(1, 2, 1),
            virtual_stages=2,
            remat="selective",
            pipeline=pipeline,
        )
        step = compiled(layout, micro_batches=micro_batches)
        return step.memory_analysis().temp_size_in_bytes

    inputs = 48 * 8 * WIDE.d_model * 2
    assert temporary("1f1b", 64) < temporary("1f1b", 16) + 2 * inputs
    assert temporary("1f1b", 64) < 0.6 * temporary("gpipe", 64)


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_loop_computes_an_array_of_all_weights(name):
    """Gradients of a chunk are added to all in place, without a pass over all."""
    layout = LAYOUTS[name]
    per_stage = WIDE.num_layers // layout.size("pipe")
    matrix = WIDE.d_model * WIDE.d_ff // layout.size("tensor")
    found = program(layout).large_loop_results(per_stage * matrix * 4)
    assert found == []


def test_a_sum_of_all_weights_would_be_seen():
    def body(carry, x):
        return carry + x, None

    run = jax.jit(lambda total, xs: jax.lax.scan(body, total, xs)[0])
    shape = jax.ShapeDtypeStruct
    lowered = run.lower(shape((64, 64), jnp.float32), shape((9,), jnp.float32))
    found = hlo.Program(lowered.compile().as_text()).large_loop_results(64 * 64 * 4)
    assert [instruction.nbytes for instruction in found] == [64 * 64 * 4]


@pytest.mark.parametrize(
    ("accumulate", "pipeline"),
    # A CPU's compiler keeps the sums of 1F1B's loops in float32 in any case.
    [
        ("float32", "gpipe"),
        pytest.param("compute", "gpipe", marks=pytest.mark.slow),
        pytest.param("float32", "1f1b", marks=pytest.mark.slow),
    ],
)
def test_micro_batches_add_up_their_gradients_in_float32(accumulate, pipeline):
    """63 equal rows, and one with weight 2,048, which is the first to come back: beside
    it each of the others is too small to count in bfloat16."""
    layout = Layout(
        meshes.make_mesh(1, 2, 2),
        virtual_stages=2,
        zero=1,
        accumulate=accumulate,
        pipeline=pipeline,
    )

    @jax.jit
    def init(key):
        return partition.pack(WIDE, forward.init(WIDE, key), layout)

    params = init(jax.random.key(0))
    tokens = np.tile(np.arange(8, dtype=np.int32) * 7 % 64, (64, 1))

    @jax.jit
    def gradient(weights):
        def weighted(params):
            found = forward.token_log_probs(WIDE, params, tokens, layout=layout)
            return (found * weights[:, None]).sum()

        return jax.grad(weighted)(params)["layers"]["mlp"]["up"]

    one = np.asarray(gradient(np.float32([0] * 63 + [1])))
    total = np.asarray(gradient(np.float32([1] * 63 + [2048])))
    times = (total * one).sum() / (one * one).sum()
    expected = {"float32": 2048 + 63, "compute": 2048}[accumulate]
    assert times == pytest.approx(expected, rel=2e-3)

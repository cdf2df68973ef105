"""The engine and the scores with one-byte weights are those of the full kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.inference.engine import paged
from nemojax.inference.engine.config import EngineConfig
from nemojax.inference.engine.engine import Engine
from nemojax.inference.engine.sampling import Sampling
from nemojax.inference.scoring import fidelity, scoring
from nemojax.models import forward, quantized
from nemojax.parallel import mesh as meshes
from tests.models.conftest import dequantized

pytestmark = pytest.mark.usefixtures("quick_compile")

CONFIG = EngineConfig(
    slots=4, blocks=40, block_size=4, max_length=48, prefill_slots=2,
    chunk=6, tile=8,
    steps=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def log_softmax(config, params):
    """tokens [8, 32] -> log-probs of the next ones, with the full kernels."""
    kernels = dequantized(quantized.quantize(params, "fp8"))
    return jax.jit(
        lambda tokens: jax.nn.log_softmax(forward.logits(config, kernels, tokens))
    )


@pytest.mark.parametrize(
    ("sizes", "donate"),
    [({}, True), pytest.param({"tensor": 2}, False, marks=pytest.mark.slow)],
    ids=str,
)
def test_answers_are_those_of_the_full_kernels(
    config, params, prompts, log_softmax, sizes, donate
):
    mesh = meshes.make_mesh(**sizes)
    tree = jax.tree.map(jnp.array, quantized.quantize(params, "fp8"))
    if donate:
        given, tree = tree, paged.by_layer(config, tree, mesh, donate=True)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given["layers"]))
    engine = Engine(config, tree, mesh, CONFIG)
    found = engine.generate(prompts, Sampling(temperature=0.0, max_tokens=12))
    rows = np.zeros((len(prompts), 32), np.int32)
    for row, prompt, one in zip(rows, prompts, found, strict=True):
        row[: len(prompt) + len(one.tokens)] = prompt + one.tokens
    expected = np.asarray(log_softmax(rows))
    for after, prompt, one in zip(expected, prompts, found, strict=True):
        after = after[len(prompt) - 1 :][: len(one.tokens)]
        assert one.tokens == after.argmax(-1).tolist()
        np.testing.assert_allclose(one.log_probs, after.max(-1), atol=1e-4)


def test_what_the_engine_keeps_is_one_byte_a_weight(config, params):
    tree = quantized.quantize(params, "int8")
    found = paged.by_layer(config, tree, meshes.make_mesh())
    for layer in found["layers"]:
        assert layer["mlp"]["up"].dtype == jnp.int8
        assert layer["mlp"]["up_scale"].dtype == jnp.float32
    assert found["lm_head"]["kernel"].dtype == jnp.int8
    shapes = paged.by_layer(config, jax.eval_shape(lambda: tree), meshes.make_mesh())
    jax.tree.map(
        lambda ours, theirs: (
            np.testing.assert_equal(ours.shape, theirs.shape),
            np.testing.assert_equal(ours.dtype, theirs.dtype),
        ),
        shapes,
        found,
    )


@pytest.mark.slow
def test_scores_are_those_of_the_full_kernels(config, params, prompts):
    tree = quantized.quantize(params, "int8")
    pairs = [(prompt, [0] + [1] * (len(prompt) - 1)) for prompt in prompts]
    mesh = meshes.make_mesh()
    options = {"mesh": mesh, "buckets": scoring.choose_buckets(mesh, 24)}
    for begin in (scoring.begin_rewards, scoring.begin_log_probs):
        np.testing.assert_allclose(
            begin(config, tree, pairs, **options).result(),
            begin(config, dequantized(tree), pairs, **options).result(),
            rtol=1e-4,
            atol=1e-4,
        )


def compared(config, reference, changed):
    rng = np.random.default_rng(3)
    texts = [rng.integers(0, config.vocab_size, size) for size in (9, 2, 30, 1, 20)]
    tokens, segments = fidelity.rows_of(texts, 16)
    options = {"mesh": meshes.make_mesh(), "rows": 3}
    return fidelity.compare(config, reference, changed, tokens, segments, **options)


def test_a_model_is_no_distance_from_itself(config, params):
    found = compared(config, params, params)
    assert (found.kl, found.same, found.change) == (0, 1, 0)
    # Every token but the first of a text and of a row.
    assert found.tokens == 8 + 1 + 29 + 19 - 3


def test_quantised_weights_are_near_and_the_distance_is_no_less_than_zero(
    config, params
):
    """Of random weights with sharp distributions; int8 is finer than fp8."""
    near = compared(config, params, quantized.quantize(params, "int8"))
    wide = compared(config, params, quantized.quantize(params, "fp8"))
    assert 0 < near.kl < wide.kl < 0.1
    assert near.same > 0.9
    assert abs(near.change) < 0.05
    assert near.reference_perplexity == pytest.approx(wide.reference_perplexity)


def test_text_without_two_tokens_is_refused():
    with pytest.raises(ValueError, match="no text of two tokens"):
        fidelity.rows_of([[3], []], 8)

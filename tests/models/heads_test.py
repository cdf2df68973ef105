"""The fused cross-entropy is log_softmax, without the logits in memory."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from nemojax.models import forward, heads, layers, presets
from nemojax.models.config import ModelConfig

pytestmark = pytest.mark.usefixtures("quick_compile")

VOCABULARY = 97
CONFIG = ModelConfig(
    vocab_size=VOCABULARY,
    num_layers=1,
    d_model=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    d_ff=16,
    compute_dtype="float32",
)


@pytest.fixture(scope="module")
def inputs():
    """(x [N, D], kernel [V, D], targets [N], weights [N]) with large logits."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, (11, 16)).astype(np.float32)
    kernel = rng.normal(0, 2, (VOCABULARY, 16)).astype(np.float32)
    targets = rng.integers(0, VOCABULARY, 11).astype(np.int32)
    targets[:2] = 0, VOCABULARY - 1
    return x, kernel, targets, rng.normal(size=11).astype(np.float32)


def reference(x, kernel, targets):
    log_probs = jax.nn.log_softmax(x @ kernel.T)
    return jnp.take_along_axis(log_probs, targets[:, None], axis=1)[:, 0]


def fused(chunk, x, kernel, targets):
    config = dataclasses.replace(CONFIG, vocab_chunk=chunk)
    return heads.log_probs(config, kernel, x, targets)


def with_gradients(function, inputs):
    """((gradient of x, of kernel), log-probs) of a weighted sum of log-probs."""
    x, kernel, targets, weights = inputs

    def weighted(x, kernel):
        log_probs = function(x, kernel, targets)
        return (log_probs * weights).sum(), log_probs

    return jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))(x, kernel)


@pytest.fixture(scope="module")
def expected(inputs):
    return with_gradients(reference, inputs)


@pytest.mark.parametrize("chunk", [1, 10, 96, 8192])
def test_log_probs_and_gradients_are_those_of_log_softmax(inputs, expected, chunk):
    """For chunks that divide the vocabulary, do not, and hold all of it."""
    (x_expected, kernel_expected), expected = expected
    function = functools.partial(fused, chunk)
    (x_grad, kernel_grad), log_probs = with_gradients(function, inputs)
    np.testing.assert_allclose(log_probs, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(x_grad, x_expected, atol=1e-4)
    np.testing.assert_allclose(kernel_grad, kernel_expected, atol=1e-4)


def test_logits_of_any_size_neither_overflow_nor_vanish(inputs):
    """A naive sum of exponentials is infinite from logits of 89 on."""
    x, kernel, targets, _ = inputs
    log_probs = fused(10, x * 100, kernel, targets)
    np.testing.assert_allclose(
        log_probs, reference(x * 100, kernel, targets), rtol=1e-5
    )
    assert np.abs(x * 100 @ kernel.T).max() > 1000


def largest(jaxpr) -> int:
    """Elements of the largest intermediate array of a program, inner ones included."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [math.prod(variable.aval.shape) for variable in equation.outvars]
        for value in jax.tree.leaves(
            tuple(equation.params.values()),
            is_leaf=lambda leaf: isinstance(leaf, core.Jaxpr | core.ClosedJaxpr),
        ):
            if isinstance(value, core.ClosedJaxpr):
                value = value.jaxpr
            if isinstance(value, core.Jaxpr):
                sizes.append(largest(value))
    return max(sizes)


def gradient_program(chunk):
    """The program of a loss and its gradient, of 64 tokens and 4096 rows."""
    config = dataclasses.replace(CONFIG, vocab_size=4096, vocab_chunk=chunk)
    params = jax.eval_shape(functools.partial(forward.init, config), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((2, 32), jnp.int32)

    def loss(params, tokens):
        return forward.token_log_probs(config, params, tokens).sum()

    return jax.jit(jax.value_and_grad(loss)).trace(params, tokens)


def test_token_log_probs_never_holds_the_logits():
    """No array as large as [B * S, V], forward or backward; it would be 262,144."""
    assert largest(gradient_program(chunk=256).jaxpr.jaxpr) < 64 * 4096 / 2
    assert largest(gradient_program(chunk=4096).jaxpr.jaxpr) >= 64 * 4096


def test_an_embedding_is_its_row_of_the_table():
    table = np.random.default_rng(0).normal(size=(VOCABULARY, 16)).astype(np.float32)
    tokens = np.array([[0, 5, VOCABULARY - 1]])
    out = layers.apply(heads.Embedding(CONFIG), {"table": table}, tokens)
    np.testing.assert_array_equal(out, table[tokens])


def test_a_reward_head_is_linear_with_bias_in_float32():
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(16, 5)), rng.normal(size=5)
    x = jnp.asarray(rng.normal(size=(3, 16)), "bfloat16")
    params = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    out = layers.apply(heads.RewardHead(16), params, x)
    assert out.dtype == "float32"
    np.testing.assert_allclose(
        out, np.asarray(x, np.float64) @ kernel + bias, atol=1e-5
    )


def test_the_gradient_in_bfloat16_is_near_that_of_float64():
    """Its products have operands of bfloat16, whose rounding is all that is between."""
    rng = np.random.default_rng(0)
    N, D, V = 96, 64, 512
    x, kernel = rng.normal(size=(N, D)), 0.3 * rng.normal(size=(V, D))
    targets = rng.integers(0, V, N)
    config = dataclasses.replace(
        presets.miniature(V), d_model=D, compute_dtype="bfloat16"
    )

    def loss(kernel, x):
        return heads.log_probs(config, kernel, x, jnp.asarray(targets)).mean()

    arrays = jnp.asarray(kernel, jnp.bfloat16), jnp.asarray(x, jnp.bfloat16)
    step = jax.jit(jax.grad(loss, argnums=(0, 1)))
    kernel, x = (np.asarray(array, np.float64) for array in arrays)
    logits = x @ kernel.T
    shares = np.exp(logits - logits.max(1, keepdims=True))
    cotangent = -shares / shares.sum(1, keepdims=True) / N
    cotangent[np.arange(N), targets] += 1 / N
    expected = cotangent.T @ x, cotangent @ kernel
    for ours, exact in zip(step(*arrays), expected, strict=True):
        error = np.linalg.norm(np.asarray(ours, np.float64) - exact)
        assert error < 4e-3 * np.linalg.norm(exact)
    products = re.findall(r"dot_general.*: \((.*)\) ->", step.lower(*arrays).as_text())
    assert len(products) == 3
    assert all(line.count("xbf16>") == 2 for line in products)

"""The forward functions against an independent model, and what they must not see."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.models import forward, stages
from nemojax.parallel.layout import Layout

pytestmark = pytest.mark.usefixtures("quick_compile")


def layer_norm(x, norm):
    centred = x - x.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return normed * (1 + norm["weight"]) + norm["bias"]


def rotated(x, rotary_dim):
    """x [S, K] of one head, position s in row s, as complex numbers."""
    half = rotary_dim // 2
    turns = np.outer(np.arange(len(x)), 10_000.0 ** (-np.arange(half) / half))
    pairs = (x[:, :half] + 1j * x[:, half:rotary_dim]) * np.exp(1j * turns)
    return np.concatenate([pairs.real, pairs.imag, x[:, rotary_dim:]], axis=1)


def reference_hidden(config, params, tokens):
    """Final hidden states [S, D] of one row in float64, head by head."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = params["embedding"]["table"][tokens]
    width, rotary = config.head_dim, config.head_dim // 2
    later = np.triu(np.full((len(tokens), len(tokens)), -np.inf), 1)
    for index in range(config.num_layers):
        layer = jax.tree.map(lambda leaf, i=index: leaf[i], params["layers"])
        y = layer_norm(x, layer["attention_norm"])
        weights, mixed = layer["attention"], []
        for head in range(config.num_heads):
            kv = head // (config.num_heads // config.num_kv_heads)
            own, shared = (slice(i * width, (i + 1) * width) for i in (head, kv))
            query = rotated(y @ weights["query"][:, own], rotary)
            key = rotated(y @ weights["key"][:, shared], rotary)
            scores = np.exp(query @ key.T / np.sqrt(width) + later)
            scores /= scores.sum(-1, keepdims=True)
            mixed.append(scores @ (y @ weights["value"][:, shared]))
        x = x + np.concatenate(mixed, axis=1) @ weights["output"]
        y = layer_norm(x, layer["mlp_norm"])
        x = x + np.maximum(y @ layer["mlp"]["up"], 0) ** 2 @ layer["mlp"]["down"]
    return layer_norm(x, params["final_norm"])


def test_outputs_are_those_of_a_plain_float64_model(config, params, tokens, outputs):
    """LayerNorm1P, half-split partial rotary, shared kv heads, squared ReLU, untied."""
    logits, log_probs, rewards = outputs(config, params, tokens)
    for row, row_tokens in enumerate(tokens):
        hidden = reference_hidden(config, params, row_tokens)
        expected = hidden @ np.asarray(params["lm_head"]["kernel"], np.float64).T
        scale = np.abs(expected).max()
        np.testing.assert_allclose(logits[row] / scale, expected / scale, atol=1e-5)
        log_softmax = expected - np.log(np.exp(expected).sum(-1, keepdims=True))
        picked = log_softmax[np.arange(15), row_tokens[1:]]
        np.testing.assert_allclose(log_probs[row, 1:], picked, atol=1e-4)
        assert log_probs[row, 0] == 0
        head = params["reward_head"]
        expected = hidden @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
        np.testing.assert_allclose(rewards[row], expected, atol=1e-4)


@pytest.mark.parametrize("changed", [1, 7, 15])
def test_no_output_sees_a_later_token(config, params, tokens, outputs, changed):
    other = tokens.copy()
    other[:, changed] = (other[:, changed] + 1) % config.vocab_size
    before = outputs(config, params, tokens)
    after = outputs(config, params, other)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old[:, :changed], new[:, :changed])
        assert (np.asarray(old)[:, changed] != np.asarray(new)[:, changed]).any()


def test_packed_segments_do_not_see_each_other(config, params, tokens, outputs):
    """Rows of [5, 4, 7] tokens give what the three sequences give in their own rows."""
    lengths = [5, 4, 7]
    segments = np.repeat([1, 2, 3], lengths)[None].repeat(4, axis=0)
    positions = np.concatenate([np.arange(n) for n in lengths])[None].repeat(4, axis=0)
    packed = outputs(config, params, tokens, segment_ids=segments, positions=positions)
    for start, stop in [(0, 5), (5, 9), (9, 16)]:
        alone = np.zeros_like(tokens)
        alone[:, : stop - start] = tokens[:, start:stop]
        separate = outputs(config, params, alone)
        for joint, single in zip(packed, separate, strict=True):
            np.testing.assert_allclose(
                joint[:, start:stop], single[:, : stop - start], atol=1e-4
            )
        assert not packed[1][:, start].any()  # nothing predicts a first token


@pytest.mark.parametrize("left", [0, 3, 6])
def test_padding_changes_nothing_wherever_it_stands(
    config, params, tokens, outputs, left
):
    """10 tokens between `left` and 6 - left paddings, whatever the padding holds."""
    content = tokens[:, :10]
    expected = [np.asarray(out)[:, :10] for out in outputs(config, params, tokens)]
    padded = np.full_like(tokens, 7)
    padded[:, left : left + 10] = content
    segments = np.zeros_like(tokens)
    segments[:, left : left + 10] = 1
    positions = np.maximum(np.arange(16) - left, 0)[None].repeat(4, axis=0)
    found = outputs(config, params, padded, segment_ids=segments, positions=positions)
    for new, old in zip(found, expected, strict=True):
        np.testing.assert_allclose(new[:, left : left + 10], old, atol=1e-4)


def test_pick_reads_rows_at_flat_indices():
    values = np.arange(2 * 3 * 5).reshape(2, 3, 5)
    picked = forward.pick(jnp.asarray(values), jnp.asarray([4, 0]))
    np.testing.assert_array_equal(picked, [values[1, 1], values[0, 0]])


@functools.cache
def gradients(remat):
    layout = Layout(remat=remat)

    def loss(config, params, tokens):
        return (forward.rewards(config, params, tokens, layout=layout) ** 2).sum()

    return jax.jit(jax.value_and_grad(loss, argnums=1), static_argnums=0)


@pytest.mark.parametrize("remat", [n for n in stages.REMAT_POLICIES if n != "none"])
def test_remat_changes_neither_values_nor_gradients(config, params, tokens, remat):
    value, expected = gradients("none")(config, params, tokens)
    again, found = gradients(remat)(config, params, tokens)
    np.testing.assert_allclose(again, value, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        found,
        expected,
    )


def test_remat_policies_differ_in_what_they_keep(config, params, tokens):
    """The more is kept, the fewer operations the backward pass repeats."""

    def products(remat):
        text = str(gradients(remat).trace(config, params, tokens).jaxpr)
        return text.count("dot_general")

    assert products("none") < products("mlp_preactivation") < products("full")


def test_an_unknown_remat_policy_is_refused_with_the_valid_ones(config, params, tokens):
    with pytest.raises(
        ValueError, match="'most'; one of none, full, mlp_preactivation"
    ):
        forward.token_log_probs(config, params, tokens, layout=Layout(remat="most"))


def test_the_compute_dtype_is_that_of_the_layers_and_results_are_float32(
    config, params, tokens, outputs
):
    """bfloat16 keeps 8 bits: results agree with float32 to about 1 in 100."""
    exact = outputs(config, params, tokens)
    rounded = outputs(
        dataclasses.replace(config, compute_dtype="bfloat16"), params, tokens
    )
    for precise, coarse in zip(exact, rounded, strict=True):
        assert coarse.dtype == "float32"
        error = np.abs(np.asarray(precise) - np.asarray(coarse)).mean()
        assert 0 < error < 0.05 * np.abs(np.asarray(precise)).mean()

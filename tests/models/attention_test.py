"""Rotary positions and masked attention, against closed forms and plain loops."""

import jax
import numpy as np
import pytest

from nemojax.models import attention
from nemojax.models.config import RopeScaling

B, S, H, G, K = 2, 5, 6, 2, 8
ROTARY, THETA = 4, 100.0
FREQUENCIES = attention.rotary_frequencies(ROTARY, THETA)


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


def rotate(x, position):
    """One head vector [K] at one position."""
    positions = np.full((1, 1), position, np.int32)
    x = np.asarray(x, np.float32)[None, None, None]
    return np.asarray(attention.rotary(x, positions, FREQUENCIES))[0, 0, 0]


def test_rotary_at_position_zero_is_the_identity(rng):
    x = rng.normal(size=K).astype(np.float32)
    np.testing.assert_array_equal(rotate(x, 0), x)


@pytest.mark.parametrize("position", [1, 7, 4000])
def test_rotary_turns_pairs_half_a_rotation_apart(position, rng):
    """(x_i, x_{i + r/2}) turns by position * theta^(-2i / r); the rest passes."""
    x = rng.normal(size=K)
    expected = x.copy()
    for i in range(ROTARY // 2):
        turned = (x[i] + 1j * x[i + ROTARY // 2]) * np.exp(
            1j * position * THETA ** (-2 * i / ROTARY)
        )
        expected[i], expected[i + ROTARY // 2] = turned.real, turned.imag
    # float32 angles: an error of position * 2^-24 in the angle.
    np.testing.assert_allclose(rotate(x, position), expected, atol=5e-4)


def test_rotary_scores_depend_on_the_distance_only(rng):
    query, key = rng.normal(size=(2, K))
    scores = [rotate(query, 3 + shift) @ rotate(key, shift) for shift in (0, 5, 90)]
    np.testing.assert_allclose(scores, scores[0], atol=1e-4)
    assert abs(rotate(query, 9) @ rotate(key, 0) - scores[0]) > 0.1


def test_rotary_keeps_the_dtype():
    x = jax.numpy.ones((1, 1, 1, K), "bfloat16")
    positions = np.ones((1, 1), np.int32)
    assert attention.rotary(x, positions, FREQUENCIES).dtype == "bfloat16"


def test_llama_31_keeps_short_waves_and_stretches_long_ones():
    """The published frequencies of a head of 128 with base 500,000."""
    plain = attention.rotary_frequencies(128, 500_000.0)
    found = attention.rotary_frequencies(128, 500_000.0, RopeScaling())
    np.testing.assert_array_equal(found[:29], plain[:29])
    np.testing.assert_allclose(found[35:], plain[35:] / 8, rtol=1e-6)
    smoothed = [
        2.16657063e-3,
        1.37189368e-3,
        8.5675146e-4,
        5.24846e-4,
        3.126937e-4,
        1.785078e-4,
    ]
    np.testing.assert_allclose(found[29:35], smoothed, rtol=1e-5)
    np.testing.assert_allclose(
        found[[28, 35, 63]], [3.21144611e-3, 9.556212e-5, 3.06892590e-7], rtol=1e-6
    )


def test_attention_is_a_softmax_over_the_visible_keys(rng):
    """A loop over queries and heads; head i reads key/value head i // (H / G)."""
    q = rng.normal(size=(B, S, H, K)).astype(np.float32)
    k, v = rng.normal(size=(2, B, S + 2, G, K)).astype(np.float32)
    mask = rng.random((B, S, S + 2)) < 0.5
    mask[..., 0] = True
    out = np.asarray(attention.attention(q, k, v, mask))
    for b, s, h in np.ndindex(B, S, H):
        g = h // (H // G)
        seen = mask[b, s]
        scores = np.exp(k[b, seen, g] @ q[b, s, h] / np.sqrt(K))
        expected = scores / scores.sum() @ v[b, seen, g]
        np.testing.assert_allclose(out[b, s, h], expected, atol=1e-5)


def test_a_query_that_sees_nothing_gives_no_nan():
    x = np.ones((1, 1, 2, K), np.float32)
    out = attention.attention(x, x, x, np.zeros((1, 1, 1), bool))
    assert np.isfinite(out).all()


def test_causal_mask_shows_earlier_tokens_of_the_same_segment():
    segments = np.array([[1, 1, 2, 2, 0], [3, 3, 3, 0, 0]])
    mask = np.asarray(attention.causal_mask(segments))
    for b, s, t in np.ndindex(mask.shape):
        assert mask[b, s, t] == (t <= s and segments[b, s] == segments[b, t])

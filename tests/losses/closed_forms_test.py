"""Values and gradients of the losses that are not in the report, in closed form."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax import losses
from nemojax.losses import Judged, Pairs, Responses

BETA, GAMMA = 0.7, 0.4


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def simpo(chosen, rejected):
    margin = BETA * (chosen - rejected) - GAMMA
    return np.log1p(np.exp(-margin)), -BETA * sigmoid(-margin)


def orpo(chosen, rejected):
    odds = [p / (1 - p) for p in (np.exp(chosen), np.exp(rejected))]
    ratio = np.log(odds[0] / odds[1])
    slope = -BETA * sigmoid(-ratio) / (1 - np.exp(chosen))
    return BETA * np.log1p(np.exp(-ratio)) - chosen, slope - 1


def dpo_norm(chosen, rejected):
    gap = BETA * (chosen - rejected)
    return np.log1p(np.exp(-gap)), -BETA * sigmoid(-gap)


def apo_zero(chosen, rejected):
    p, q = sigmoid(BETA * chosen), sigmoid(BETA * rejected)
    return 1 - p + q, -BETA * p * (1 - p)


def apo_down(chosen, rejected):
    p, q = sigmoid(BETA * chosen), sigmoid(BETA * (chosen - rejected))
    return p + 1 - q, BETA * (p * (1 - p) - q * (1 - q))


# The loss, its closed form, and what that is a function of: means or sums of log-probs,
# with or without a reference.
FORMS = {
    "simpo": (functools.partial(losses.simpo, gamma=GAMMA), simpo, True, False),
    "orpo": (losses.orpo, orpo, True, False),
    "dpo_norm": (losses.dpo_norm, dpo_norm, True, True),
    "apo_zero": (losses.apo_zero, apo_zero, False, True),
    "apo_down": (losses.apo_down, apo_down, False, True),
}


@pytest.mark.parametrize("name", FORMS)
def test_values_and_gradients_have_their_closed_form(name, random_pairs):
    loss, form, mean, referred = FORMS[name]
    pairs = random_pairs(64)
    scores = []
    for side in pairs[:2]:
        score = np.float64(side.log_probs)
        score -= np.float64(side.reference) if referred else 0
        scores.append(score / side.tokens if mean else score)

    def total(log_probs):
        chosen = pairs.chosen._replace(log_probs=log_probs)
        values = loss(pairs._replace(chosen=chosen), beta=BETA).values
        return values.sum(), values

    gradient, values = jax.grad(total, has_aux=True)(pairs.chosen.log_probs)
    expected, slope = form(*scores)
    np.testing.assert_allclose(values, expected, rtol=2e-5, atol=1e-5)
    slope = slope / pairs.chosen.tokens if mean else slope
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["simpo", "orpo", "dpo_norm"])
def test_of_a_response_twice_as_long_only_the_mean_counts(name, random_pairs):
    pairs = random_pairs(8)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, pairs)
    values = [FORMS[name][0](x, beta=BETA).values for x in (pairs, doubled)]
    chex.assert_trees_all_close(*values, rtol=1e-5)


def test_odds_of_certain_and_of_impossible_responses_are_finite():
    """Also of one without trained tokens, whose mean log-prob is 0."""
    sums = jnp.array([0.0, -1e-6, -3.0, -1e6])
    chosen, rejected = (x.ravel() for x in jnp.meshgrid(sums, sums))
    tokens = jnp.array([0.0, 1.0, 1.0, 1.0])
    counts = [x.ravel() for x in jnp.meshgrid(tokens, tokens)]

    def total(sides):
        both = [Responses(x, tokens=n) for x, n in zip(sides, counts, strict=True)]
        return losses.orpo(Pairs(*both), beta=0.1).values.sum()

    chex.assert_tree_all_finite(jax.value_and_grad(total)((chosen, rejected)))


@pytest.fixture
def judged(random_pairs):
    pairs = random_pairs(16)
    desirable = jnp.arange(16) % 3 == 0
    scale = 0.05  # log ratios of a policy near its reference
    sides = [
        side._replace(log_probs=side.reference + scale * (side.log_ratios + shift))
        for side, shift in zip(pairs[:2], (0.0, 60.0), strict=True)
    ]
    return Judged(*sides, desirable)


def kto(judged, **options):
    return losses.kto(judged, beta=BETA, **options)


def test_kto_has_its_closed_form(judged):
    """The baseline is the mean log ratio of the mismatched, and is no function."""
    ratio, other = (np.float64(side.log_ratios) for side in judged[:2])
    assert other.mean() > 0.1
    good = np.array(judged.desirable)
    side = np.where(good, 1, -1)
    weight = np.where(good, 2.0, 0.5)
    right = sigmoid(BETA * (ratio - other.mean()) * side)

    def total(sides):
        both = [
            side._replace(log_probs=x)
            for side, x in zip(judged[:2], sides, strict=True)
        ]
        loss = kto(
            Judged(*both, judged.desirable),
            desirable_weight=2.0,
            undesirable_weight=0.5,
        )
        return loss.values.sum(), loss

    log_probs = [side.log_probs for side in judged[:2]]
    gradients, loss = jax.grad(total, has_aux=True)(log_probs)
    np.testing.assert_allclose(loss.values, weight * (1 - right), rtol=1e-4)
    slope = -weight * BETA * right * (1 - right) * side
    np.testing.assert_allclose(gradients[0], slope, rtol=1e-3, atol=1e-6)
    assert not gradients[1].any()
    np.testing.assert_array_equal(loss.metrics["accuracy"], right > 0.5)


def test_a_policy_less_likely_than_its_reference_has_baseline_0(judged):
    other = judged.mismatched
    judged = judged._replace(mismatched=other._replace(log_probs=other.reference - 1.0))
    assert not kto(judged).metrics["kl_baseline"].any()


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -1e30])
def test_absent_responses_change_neither_values_nor_baseline_of_kto(judged, garbage):
    padded = jax.tree.map(lambda x: jnp.append(x, jnp.full(3, garbage)), judged)
    padded = padded._replace(valid=jnp.arange(19) < 16)
    chex.assert_trees_all_close(
        losses.reduce(kto(padded)), losses.reduce(kto(judged)), rtol=1e-5
    )

    def total(log_probs):
        responses = padded.responses._replace(log_probs=log_probs)
        return kto(padded._replace(responses=responses)).values.sum()

    gradient = jax.grad(total)(padded.responses.log_probs)
    chex.assert_tree_all_finite(gradient)
    assert not gradient[16:].any() and gradient[:16].all()

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax import losses
from nemojax.losses.preference import logistic, reward_distance

X, Y = (grid.ravel() for grid in jnp.meshgrid(jnp.arange(-5.0, 6), jnp.arange(-4.0, 5)))


@pytest.mark.parametrize("distance", losses.DISTANCES)
def test_is_zero_where_the_gaps_agree_and_positive_elsewhere(distance):
    loss_N = np.asarray(reward_distance(X, Y, distance))
    agree_N = np.asarray(X == Y)
    assert agree_N.sum() == 9
    np.testing.assert_allclose(loss_N[agree_N], 0, atol=1e-6)
    assert (loss_N[~agree_N] > 1e-5).all()


@pytest.mark.parametrize(
    ("distance", "closed_form"),
    [
        ("backward_kl", lambda x, y: jax.nn.sigmoid(x) - jax.nn.sigmoid(y)),
        (
            "forward_kl",
            lambda x, y: jax.nn.sigmoid(x) * jax.nn.sigmoid(-x) * (x - y),
        ),
        ("squared", lambda x, y: 2 * (x - y)),
    ],
)
def test_gradient_has_its_closed_form(distance, closed_form):
    gradient_N = jax.grad(lambda x: reward_distance(x, Y, distance=distance).sum())(X)
    chex.assert_trees_all_close(gradient_N, closed_form(X, Y), rtol=1e-4, atol=1e-6)


def test_without_implicit_gap_is_the_divergence_from_a_fair_coin():
    q = np.asarray(jax.nn.sigmoid(Y), np.float64)
    expected = q * np.log(2 * q) + (1 - q) * np.log(2 * (1 - q))
    chex.assert_trees_all_close(
        reward_distance(jnp.zeros_like(Y), Y), np.float32(expected), atol=1e-6
    )


def test_becomes_dpo_as_the_target_grows():
    chex.assert_trees_all_close(
        reward_distance(X, jnp.full_like(X, 1e4)), logistic(X, beta=1.0), rtol=1e-5
    )


def test_backward_gradient_is_that_of_dpo_with_soft_labels():
    """The two differ by the entropy of the label, which x does not change."""
    target = 1.5
    smoothing = float(jax.nn.sigmoid(-target))
    rpo_gradient = jax.grad(
        lambda x: reward_distance(x, jnp.full_like(x, target)).sum()
    )
    dpo_gradient = jax.grad(
        lambda x: logistic(x, beta=1.0, label_smoothing=smoothing).sum()
    )
    chex.assert_trees_all_close(rpo_gradient(X), dpo_gradient(X), atol=1e-6)


@pytest.mark.parametrize("distance", losses.DISTANCES)
def test_swapping_the_responses_of_a_pair_changes_nothing(distance):
    chex.assert_trees_all_close(
        reward_distance(X, Y, distance),
        reward_distance(-X, -Y, distance=distance),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("distance", ["backward_kl", "forward_kl"])
def test_extreme_gaps_have_finite_values_and_gradients(distance):
    extremes = jnp.array([-1e4, -90.0, 0.0, 90.0, 1e4])
    x_N, y_N = (v.ravel() for v in jnp.meshgrid(extremes, extremes))
    loss_N = reward_distance(x_N, y_N, distance=distance)
    gradient_N = jax.grad(lambda x: reward_distance(x, y_N, distance=distance).sum())(
        x_N
    )
    chex.assert_tree_all_finite((loss_N, gradient_N))


def test_names_the_distances_when_one_is_unknown():
    with pytest.raises(ValueError, match=r"'kl' is none of backward_kl, forward_kl"):
        reward_distance(X, Y, "kl")

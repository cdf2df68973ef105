import chex
import jax
import jax.numpy as jnp
import pytest

from nemojax.losses import attribute_regression

VECTORS = ("regression_mse",)


def test_gives_values_and_gradients_of_the_vectors(vector):
    inputs, expected = vector["inputs"], vector["expected"]
    labels_NK = jnp.array(inputs["label"])

    def mean(predictions_NK):
        loss_sum, weight, _ = attribute_regression.loss(predictions_NK, labels_NK)
        return loss_sum / weight, weight

    (loss, weight), gradient_NK = jax.value_and_grad(mean, has_aux=True)(
        jnp.array(inputs["pred"])
    )
    assert weight == expected["num_valid"]
    assert loss == pytest.approx(expected["loss"], rel=2e-5)
    chex.assert_trees_all_close(
        gradient_NK, jnp.array(expected["grad"]), rtol=2e-5, atol=2e-6
    )


def test_weighs_examples_and_ignores_padding():
    predictions_NK = jnp.array([[1.0, 2.0], [0.0, 5.0], [jnp.nan, jnp.inf]])
    labels_NK = jnp.array([[0.0, 4.0], [3.0, -100.0], [1.0, 1.0]])
    loss_sum, weight, metrics = attribute_regression.loss(
        predictions_NK, labels_NK, weights_N=jnp.array([2.0, 1.0, 0.0])
    )
    assert (loss_sum, weight) == (2 * (1 + 4) + 9, 5)
    assert metrics["absolute_error"] == (2 * (1 + 2) + 3, 5)


def test_without_labels_sum_weight_and_gradient_are_zero():
    labels_NK = jnp.full((2, 5), -100.0)
    predictions_NK = jnp.ones((2, 5))
    loss_sum, weight, _ = attribute_regression.loss(predictions_NK, labels_NK)
    assert (loss_sum, weight) == (0, 0)
    gradient_NK = jax.grad(lambda p: attribute_regression.loss(p, labels_NK)[0])(
        predictions_NK
    )
    chex.assert_trees_all_equal(gradient_NK, jnp.zeros((2, 5)))


def test_the_mark_of_missing_labels_can_be_chosen():
    _, weight, _ = attribute_regression.loss(
        jnp.zeros((1, 3)), jnp.array([[-1.0, 0.0, 4.0]]), missing=-1.0
    )
    assert weight == 2

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax import losses


@pytest.mark.vectors("bradley_terry")
@pytest.mark.parametrize("form", ["regular", "margin", "scaled"])
def test_bradley_terry_gives_the_values_of_the_vectors(vector, form):
    inputs, expected = vector["inputs"], vector["expected"][form]
    chosen_N, rejected_N = jnp.array(inputs["chosen"]), jnp.array(inputs["rejected"])
    strength = jnp.array(inputs["margin"])
    options = {"regular": {}, "margin": {"margin": strength}}.get(
        form, {"scale": strength}
    )
    loss = losses.bradley_terry(chosen_N, rejected_N, **options)
    chex.assert_trees_all_close(
        loss.values, jnp.array(expected["per_example"]), rtol=2e-5, atol=2e-6
    )
    loss_sum, weight, metrics = losses.reduce(loss)
    assert loss_sum / weight == pytest.approx(expected["loss"], rel=2e-5)
    assert metrics["accuracy"][0] / weight == pytest.approx(expected["acc"], rel=1e-5)


def test_equal_rewards_have_loss_log_2_and_accuracy_0():
    same = jnp.array([1.0, -2.0])
    loss_sum, weight, metrics = losses.reduce(losses.bradley_terry(same, same))
    assert loss_sum / weight == pytest.approx(np.log(2), rel=1e-6)
    assert metrics["accuracy"][0] == 0.0


def test_gradient_is_scale_times_probability_of_the_wrong_order():
    gap_N = jnp.array([-500.0, -1.0, 0.0, 2.0, 500.0])
    margin, scale = jnp.full(5, 0.5), jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])

    def total(chosen_N):
        loss = losses.bradley_terry(chosen_N, jnp.zeros(5), margin=margin, scale=scale)
        return loss.values.sum()

    chex.assert_trees_all_close(
        jax.grad(total)(gap_N), -scale * jax.nn.sigmoid(margin - gap_N), rtol=1e-5
    )


def test_only_the_gap_of_rewards_counts():
    chosen_N, rejected_N = jnp.array([1.0, 2.0]), jnp.array([0.5, 3.0])
    chex.assert_trees_all_close(
        losses.bradley_terry(chosen_N + 8, rejected_N + 8).values,
        losses.bradley_terry(chosen_N, rejected_N).values,
        rtol=1e-6,
    )


def test_options_of_invalid_entries_do_not_matter():
    rewards = jnp.array([1.0, 7.0]), jnp.array([0.5, 3.0])
    garbage = jnp.array([0.25, jnp.nan])
    padded = losses.bradley_terry(
        *rewards, margin=garbage, scale=garbage, valid=jnp.array([1, 0])
    )
    alone = losses.bradley_terry(
        rewards[0][:1], rewards[1][:1], margin=garbage[:1], scale=garbage[:1]
    )
    chex.assert_trees_all_close(losses.reduce(padded), losses.reduce(alone))


@pytest.mark.vectors("regression_mse")
def test_regression_gives_values_and_gradients_of_the_vectors(vector):
    inputs, expected = vector["inputs"], vector["expected"]
    labels_NK = jnp.array(inputs["label"])

    def mean(predictions_NK):
        loss_sum, weight, _ = losses.reduce(
            losses.attribute_regression(predictions_NK, labels_NK)
        )
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
    loss_sum, weight, metrics = losses.reduce(
        losses.attribute_regression(
            predictions_NK, labels_NK, weights_N=jnp.array([2.0, 1.0, 0.0])
        )
    )
    assert (loss_sum, weight) == (2 * (1 + 4) + 9, 5)
    assert metrics["absolute_error"] == (2 * (1 + 2) + 3, 5)


def test_without_labels_sum_weight_and_gradient_are_zero():
    labels_NK = jnp.full((2, 5), -100.0)
    predictions_NK = jnp.ones((2, 5))
    loss_sum, weight, _ = losses.reduce(
        losses.attribute_regression(predictions_NK, labels_NK)
    )
    assert (loss_sum, weight) == (0, 0)
    gradient_NK = jax.grad(
        lambda p: losses.attribute_regression(p, labels_NK).values.sum()
    )(predictions_NK)
    chex.assert_trees_all_equal(gradient_NK, jnp.zeros((2, 5)))


def test_the_mark_of_missing_labels_can_be_chosen():
    loss = losses.attribute_regression(
        jnp.zeros((1, 3)), jnp.array([[-1.0, 0.0, 4.0]]), missing=-1.0
    )
    chex.assert_trees_all_equal(loss.weights, jnp.array([[0.0, 1.0, 1.0]]))


@pytest.mark.vectors("helpsteer_aggregate")
@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("nemotron4_340b", "nemotron4_340b_reward"),
        ("llama3_70b", "llama3_70b_steerlm_rm"),
    ],
)
def test_aggregate_gives_the_rewards_of_the_vectors(vector, model, key):
    rewards_N = losses.aggregate(
        jnp.array(vector["inputs"]["attributes"]), losses.ATTRIBUTE_WEIGHTS[model]
    )
    chex.assert_trees_all_close(
        rewards_N, jnp.array(vector["expected"][key]), rtol=2e-5
    )


def test_names_both_counts_when_they_differ():
    with pytest.raises(ValueError, match="2 weights for 9 attributes"):
        losses.aggregate(jnp.zeros((1, 9)), (0.5, 0.5))

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.losses import bradley_terry

VECTORS = ("bradley_terry",)


@pytest.mark.parametrize("form", ["regular", "margin", "scaled"])
def test_gives_the_values_of_the_vectors(vector, form):
    inputs, expected = vector["inputs"], vector["expected"][form]
    chosen_N, rejected_N = jnp.array(inputs["chosen"]), jnp.array(inputs["rejected"])
    strength = jnp.array(inputs["margin"])
    options = {"regular": {}, "margin": {"margin": strength}}.get(
        form, {"scale": strength}
    )
    chex.assert_trees_all_close(
        bradley_terry.per_pair(chosen_N, rejected_N, **options),
        jnp.array(expected["per_example"]),
        rtol=2e-5,
        atol=2e-6,
    )
    loss_sum, weight, metrics = bradley_terry.loss(chosen_N, rejected_N, **options)
    assert loss_sum / weight == pytest.approx(expected["loss"], rel=2e-5)
    assert metrics["accuracy"][0] / weight == pytest.approx(expected["acc"], rel=1e-5)


def test_equal_rewards_have_loss_log_2_and_accuracy_0():
    same = jnp.array([1.0, -2.0])
    loss_sum, weight, metrics = bradley_terry.loss(same, same)
    assert loss_sum / weight == pytest.approx(np.log(2), rel=1e-6)
    assert metrics["accuracy"][0] == 0.0


def test_gradient_is_scale_times_probability_of_the_wrong_order():
    gap_N = jnp.array([-500.0, -1.0, 0.0, 2.0, 500.0])
    margin, scale = jnp.full(5, 0.5), jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])

    def total(chosen_N):
        return bradley_terry.loss(chosen_N, jnp.zeros(5), margin=margin, scale=scale)[0]

    chex.assert_trees_all_close(
        jax.grad(total)(gap_N), -scale * jax.nn.sigmoid(margin - gap_N), rtol=1e-5
    )


def test_only_the_gap_of_rewards_counts():
    chosen_N, rejected_N = jnp.array([1.0, 2.0]), jnp.array([0.5, 3.0])
    chex.assert_trees_all_close(
        bradley_terry.per_pair(chosen_N + 8, rejected_N + 8),
        bradley_terry.per_pair(chosen_N, rejected_N),
        rtol=1e-6,
    )


def test_options_of_invalid_entries_do_not_matter():
    rewards = jnp.array([1.0, 7.0]), jnp.array([0.5, 3.0])
    garbage = jnp.array([0.25, jnp.nan])
    padded = bradley_terry.loss(
        *rewards, margin=garbage, scale=garbage, valid=jnp.array([1, 0])
    )
    alone = bradley_terry.loss(
        rewards[0][:1], rewards[1][:1], margin=garbage[:1], scale=garbage[:1]
    )
    chex.assert_trees_all_close(padded, alone)

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.losses import dpo

VECTORS = ("dpo",)
GAPS = jnp.linspace(-6.0, 6.0, 25)


def test_gives_the_values_of_the_vectors(vector, log_probs):
    beta, expected = vector["params"]["beta"], vector["expected"]
    loss_sum, weight, metrics = dpo.loss(*log_probs, beta=beta)
    means = {name: float(total / count) for name, (total, count) in metrics.items()}
    assert float(loss_sum / weight) == pytest.approx(expected["loss"], rel=2e-5)
    assert means["preference_loss"] == pytest.approx(expected["loss"], rel=2e-5)
    assert means["accuracy"] == pytest.approx(expected["acc"], rel=2e-5)
    rewards = {
        "implicit_reward_chosen": expected["implicit_reward_chosen_mean"],
        "implicit_reward_rejected": expected["implicit_reward_rejected_mean"],
        "implicit_reward_gap": beta * np.mean(expected["delta"]),
    }
    for name, value in rewards.items():
        assert means[name] == pytest.approx(value, rel=2e-5, abs=2e-6)
    # The log ratios are the rewards without beta.
    for name, reward in {
        "chosen_log_ratio": "implicit_reward_chosen",
        "rejected_log_ratio": "implicit_reward_rejected",
        "log_ratio_gap": "implicit_reward_gap",
    }.items():
        assert beta * means[name] == pytest.approx(means[reward], rel=2e-5)


def test_gives_the_pairs_and_gradients_of_the_vectors(vector):
    expected, beta = vector["expected"], vector["params"]["beta"]
    per_pair_N, gradient_N = jax.vmap(
        jax.value_and_grad(lambda gap: dpo.per_pair(gap, beta=beta))
    )(jnp.array(expected["delta"]))
    chex.assert_trees_all_close(
        (per_pair_N, gradient_N),
        (
            jnp.array(expected["per_example"]),
            jnp.array(expected["grad_per_example_wrt_delta"]),
        ),
        rtol=2e-5,
        atol=2e-6,
    )


def test_policy_equal_to_reference_has_loss_log_2_and_accuracy_0():
    same = jnp.array([-3.0, -700.0])
    loss_sum, weight, metrics = dpo.loss(same, 2 * same, same, 2 * same, beta=0.1)
    assert loss_sum / weight == pytest.approx(np.log(2), rel=1e-6)
    assert metrics["log_ratio_gap"][0] == 0.0
    assert metrics["accuracy"][0] == 0.0


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradient_is_beta_times_probability_minus_label(smoothing):
    beta = 0.7
    gradient_N = jax.grad(
        lambda gap_N: dpo.per_pair(gap_N, beta=beta, label_smoothing=smoothing).sum()
    )(GAPS)
    expected_N = beta * (jax.nn.sigmoid(beta * GAPS) - (1 - smoothing))
    chex.assert_trees_all_close(gradient_N, expected_N, rtol=1e-5, atol=1e-6)


def test_swapped_responses_exchange_label_and_smoothing():
    """With s the chance of a wrong label: (1 - s) of a swap is s of no swap."""
    plain_N, swapped_N = dpo.per_pair(GAPS, beta=1.0), dpo.per_pair(-GAPS, beta=1.0)
    smoothed_N = dpo.per_pair(GAPS, beta=1.0, label_smoothing=0.3)
    chex.assert_trees_all_close(smoothed_N, 0.7 * plain_N + 0.3 * swapped_N, rtol=1e-5)


def test_sft_gradient_on_chosen_is_minus_its_weight():
    def loss(policy_chosen):
        zeros = jnp.zeros_like(policy_chosen)
        return dpo.loss(
            policy_chosen,
            zeros,
            zeros,
            zeros,
            beta=0.1,
            sft_weight=1e-5,
            preference_weight=0.0,
        )[0]

    gradient_N = jax.grad(loss)(jnp.array([-5.0, -50.0]))
    chex.assert_trees_all_close(gradient_N, jnp.full(2, -1e-5), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [-0.1, 0.5])
def test_rejects_label_smoothing_out_of_range(smoothing):
    with pytest.raises(ValueError, match=str(smoothing)):
        dpo.per_pair(GAPS, beta=0.1, label_smoothing=smoothing)

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax import losses
from nemojax.losses import Pairs, Responses
from nemojax.losses.preference import logistic

GAPS = jnp.linspace(-6.0, 6.0, 25)


def test_policy_equal_to_reference_has_loss_log_2_and_accuracy_0():
    same = jnp.array([-3.0, -700.0])
    pairs = Pairs(Responses(same, same), Responses(2 * same, 2 * same))
    loss_sum, weight, metrics = losses.reduce(losses.dpo(pairs, beta=0.1))
    assert loss_sum / weight == pytest.approx(np.log(2), rel=1e-6)
    assert metrics["log_ratio_gap"][0] == 0.0
    assert metrics["accuracy"][0] == 0.0


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradient_is_beta_times_probability_minus_label(smoothing):
    beta = 0.7
    gradient_N = jax.grad(
        lambda gap_N: logistic(gap_N, beta=beta, label_smoothing=smoothing).sum()
    )(GAPS)
    expected_N = beta * (jax.nn.sigmoid(beta * GAPS) - (1 - smoothing))
    chex.assert_trees_all_close(gradient_N, expected_N, rtol=1e-5, atol=1e-6)


def test_swapped_responses_exchange_label_and_smoothing():
    """With s the chance of a wrong label: (1 - s) of a swap is s of no swap."""
    plain_N, swapped_N = logistic(GAPS, beta=1.0), logistic(-GAPS, beta=1.0)
    smoothed_N = logistic(GAPS, beta=1.0, label_smoothing=0.3)
    chex.assert_trees_all_close(smoothed_N, 0.7 * plain_N + 0.3 * swapped_N, rtol=1e-5)


@pytest.mark.parametrize(("average", "tokens"), [(False, [1, 1]), (True, [5, 10])])
def test_sft_gradient_on_chosen_is_minus_its_weight(average, tokens):
    """On each token's log-prob where the term is a mean: divided by their number."""

    def loss(log_probs):
        chosen = Responses(log_probs, jnp.zeros(2), jnp.array([5.0, 10.0]))
        return losses.reduce(
            losses.dpo(
                Pairs(chosen, chosen._replace(log_probs=jnp.zeros(2))),
                beta=0.1,
                sft_weight=1e-5,
                sft_average=average,
                preference_weight=0.0,
            )
        )[0]

    gradient_N = jax.grad(loss)(jnp.array([-5.0, -50.0]))
    expected_N = -1e-5 / np.array(tokens, np.float32)
    chex.assert_trees_all_close(gradient_N, expected_N, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [-0.1, 0.5])
def test_rejects_label_smoothing_out_of_range(smoothing):
    with pytest.raises(ValueError, match=str(smoothing)):
        logistic(GAPS, beta=0.1, label_smoothing=smoothing)

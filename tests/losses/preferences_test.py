"""What holds for every loss on pairs, whatever its distance."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.losses import bradley_terry, dpo, rpo

VECTORS = ("pref_plus_sft",)
N = 8
LOSSES = {
    "dpo": (4, functools.partial(dpo.loss, beta=0.3, sft_weight=0.1)),
    "conservative_dpo": (4, functools.partial(dpo.loss, beta=0.3, label_smoothing=0.1)),
    **{
        distance: (
            6,
            functools.partial(rpo.loss, beta=0.3, distance=distance, sft_weight=0.1),
        )
        for distance in ("backward_kl", "forward_kl", "squared")
    },
    "bradley_terry": (2, bradley_terry.loss),
}


@pytest.fixture(params=LOSSES)
def loss_and_inputs(request):
    count, loss = LOSSES[request.param]
    rng = np.random.default_rng(1)
    return loss, [jnp.array(rng.normal(size=N), jnp.float32) for _ in range(count)]


def test_adds_the_sft_term_of_the_vectors(vector, log_probs):
    params, expected = vector["params"], vector["expected"]
    options = {
        "beta": params["beta"],
        "sft_weight": params["sft_loss_weight"],
        "preference_weight": params["preference_loss_weight"],
    }
    if params["preference_loss"] == "dpo":
        loss_sum, weight, metrics = dpo.loss(*log_probs, **options)
    else:
        rewards = [
            jnp.array(vector["inputs"][f"{side}_gt_rewards"])
            for side in ("chosen", "rejected")
        ]
        loss_sum, weight, metrics = rpo.loss(*log_probs, *rewards, **options)
    means = {name: float(total / count) for name, (total, count) in metrics.items()}
    assert float(loss_sum / weight) == pytest.approx(expected["loss"], rel=2e-5)
    assert means["preference_loss"] == pytest.approx(
        expected["preference_loss"], rel=2e-5
    )
    assert means["sft_loss"] == pytest.approx(expected["sft_loss_chosen"], rel=2e-5)


def test_parts_of_a_batch_add_up_to_the_batch(loss_and_inputs):
    loss, inputs = loss_and_inputs
    parts = [loss(*(x[part] for x in inputs)) for part in (slice(0, 3), slice(3, N))]
    added = jax.tree.map(lambda a, b: a + b, *parts)
    chex.assert_trees_all_close(loss(*inputs), added, rtol=1e-5, atol=1e-5)


def test_order_of_pairs_does_not_matter(loss_and_inputs):
    loss, inputs = loss_and_inputs
    turned = loss(*(x[::-1] for x in inputs))
    chex.assert_trees_all_close(loss(*inputs), turned, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -1e30])
def test_invalid_entries_change_neither_values_nor_gradients(loss_and_inputs, garbage):
    loss, inputs = loss_and_inputs
    padded = [jnp.concatenate([x, jnp.full(3, garbage)]) for x in inputs]
    valid_N = jnp.arange(N + 3) < N

    def masked_sum(padded):
        return loss(*padded, valid=valid_N)[0]

    chex.assert_trees_all_close(
        loss(*inputs), loss(*padded, valid=valid_N), rtol=1e-5, atol=1e-5
    )
    gradients = jax.grad(lambda inputs: loss(*inputs)[0])(inputs)
    expected = [jnp.concatenate([x, jnp.zeros(3)]) for x in gradients]
    chex.assert_trees_all_close(jax.grad(masked_sum)(padded), expected, rtol=1e-5)


def test_reports_sums_and_weights_of_all_metrics(loss_and_inputs):
    loss, inputs = loss_and_inputs
    _, weight, metrics = loss(*inputs)
    assert weight == N
    for metric_sum, metric_weight in metrics.values():
        chex.assert_shape([metric_sum, metric_weight], ())
        assert metric_weight == N


@pytest.mark.parametrize("loss", [dpo.loss, rpo.loss])
def test_no_loss_at_all_is_an_error(loss):
    inputs = [jnp.zeros(2)] * (4 if loss is dpo.loss else 6)
    with pytest.raises(ValueError, match="both 0"):
        loss(*inputs, beta=0.1, sft_weight=0.0, preference_weight=0.0)

"""What holds for every loss on pairs, whatever its distance."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax import losses

N = 8
LOSSES = {
    "dpo": (4, functools.partial(losses.dpo, beta=0.3, sft_weight=0.1)),
    "conservative_dpo": (
        4,
        functools.partial(losses.dpo, beta=0.3, label_smoothing=0.1),
    ),
    **{
        distance: (
            6,
            functools.partial(losses.rpo, beta=0.3, distance=distance, sft_weight=0.1),
        )
        for distance in ("backward_kl", "forward_kl", "squared")
    },
    "ipo": (4, functools.partial(losses.ipo, beta=0.3, sft_weight=0.1)),
    "bradley_terry": (2, losses.bradley_terry),
}
VALUES = {
    "dpo": losses.dpo,
    "ipo": losses.ipo,
    **{
        f"rpo_{name}": functools.partial(losses.rpo, distance=distance)
        for name, distance in {
            "bwd_kl": "backward_kl",
            "fwd_kl": "forward_kl",
            "sq": "squared",
        }.items()
    },
}


@pytest.fixture(params=LOSSES)
def loss_and_inputs(request):
    count, loss = LOSSES[request.param]
    rng = np.random.default_rng(1)

    def reduced(*inputs, **options):
        return losses.reduce(loss(*inputs, **options))

    return reduced, [jnp.array(rng.normal(size=N), jnp.float32) for _ in range(count)]


@pytest.mark.vectors("dpo", "ipo", "rpo_bwd_kl", "rpo_fwd_kl", "rpo_sq")
@pytest.mark.parametrize("average", [False, True])
def test_pairs_and_gradients_are_those_of_the_vectors(vector, sides, average):
    """Both with sums of log-probs and with means over a response's tokens."""
    inputs, params, expected = (vector[k] for k in ("inputs", "params", "expected"))
    log_probs = sides(average)
    options = {"beta": params["beta"]}
    rewards = []
    if vector["loss"].startswith("rpo"):
        options["eta"] = params["gt_reward_scale"]
        rewards = [
            jnp.array(inputs[f"{side}_gt_rewards"]) for side in ("chosen", "rejected")
        ]

    def values(chosen):
        loss = VALUES[vector["loss"]](chosen, *log_probs[1:], *rewards, **options)
        return loss.values.sum(), loss

    gradient, loss = jax.grad(values, has_aux=True)(log_probs[0])
    mean = float(loss.values.mean())
    if average:
        assert mean == pytest.approx(expected["loss_if_average_log_probs"], rel=2e-5)
        return
    assert mean == pytest.approx(expected["loss"], rel=2e-5)
    for found, name in (
        (loss.values, "per_example"),
        (gradient, "grad_per_example_wrt_delta"),
        (loss.metrics["log_ratio_gap"], "delta"),
    ):
        np.testing.assert_allclose(found, expected[name], rtol=5e-5, atol=2e-5)
    metrics = {name: float(value.mean()) for name, value in loss.metrics.items()}
    assert metrics["accuracy"] == pytest.approx(expected["acc"], rel=1e-6)
    for side in ("chosen", "rejected"):
        if (name := f"implicit_reward_{side}_mean") in expected:
            found = metrics[f"implicit_reward_{side}"]
            assert found == pytest.approx(expected[name], rel=2e-5, abs=2e-6)
            with_beta = params["beta"] * metrics[f"{side}_log_ratio"]
            assert found == pytest.approx(with_beta, rel=1e-5, abs=1e-6)


@pytest.mark.vectors("pref_plus_sft")
def test_adds_the_sft_term_of_the_vectors(vector, log_probs):
    params, expected = vector["params"], vector["expected"]
    options = {
        "beta": params["beta"],
        "sft_weight": params["sft_loss_weight"],
        "preference_weight": params["preference_loss_weight"],
    }
    if params["preference_loss"] == "dpo":
        loss = losses.dpo(*log_probs, **options)
    else:
        rewards = [
            jnp.array(vector["inputs"][f"{side}_gt_rewards"])
            for side in ("chosen", "rejected")
        ]
        loss = losses.rpo(*log_probs, *rewards, **options)
    loss_sum, weight, metrics = losses.reduce(loss)
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


def test_at_the_reference_every_gap_is_exactly_zero():
    same = jnp.array([-3.25, -700.1]), jnp.array([-6.1, -12.3])
    for name in ("dpo", "ipo"):
        metrics = VALUES[name](*same, *same, beta=0.1).metrics
        assert not metrics["log_ratio_gap"].any() and not metrics["kl_estimate"].any()


@pytest.mark.parametrize("loss", [losses.dpo, losses.ipo, losses.rpo])
def test_no_loss_at_all_is_an_error(loss):
    inputs = [jnp.zeros(2)] * (6 if loss is losses.rpo else 4)
    with pytest.raises(ValueError, match="both 0"):
        loss(*inputs, beta=0.1, sft_weight=0.0, preference_weight=0.0)

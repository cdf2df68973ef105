"""What holds for every loss on pairs, whatever its distance."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax import losses
from nemojax.losses import Pairs, Responses

N = 8
DISTANCES = {
    "bwd_kl": "backward_kl",
    "fwd_kl": "forward_kl",
    "sq": "squared",
}
RPO = {
    f"rpo_{name}": functools.partial(losses.rpo, distance=distance)
    for name, distance in DISTANCES.items()
}
VALUES = {"dpo": losses.dpo, "ipo": losses.ipo, **RPO}
PREFERENCES = losses.PREFERENCES | {
    "simpo": functools.partial(losses.simpo, gamma=0.5),
    "conservative_dpo": functools.partial(losses.dpo, label_smoothing=0.1),
    "llama3_dpo": functools.partial(losses.dpo, sft_average=True),
    **RPO,
}
LOSSES = {
    name: functools.partial(loss, beta=0.3, sft_weight=0.1)
    for name, loss in PREFERENCES.items()
} | {
    "bradley_terry": lambda pairs: losses.bradley_terry(
        pairs.chosen.rewards,
        pairs.rejected.rewards,
        margin=pairs.margin,
        valid=pairs.valid,
    )
}


@pytest.fixture(params=LOSSES)
def reduced(request):
    """(pairs) -> sum, weight and metrics of a loss."""
    return lambda pairs: losses.reduce(LOSSES[request.param](pairs))


@pytest.fixture
def pairs(random_pairs):
    return random_pairs(N)


def taken(pairs, part):
    return jax.tree.map(lambda leaf: leaf[part], pairs)


@pytest.mark.vectors("dpo", "ipo", "rpo_bwd_kl", "rpo_fwd_kl", "rpo_sq")
@pytest.mark.parametrize("average", [False, True])
def test_pairs_and_gradients_are_those_of_the_vectors(vector, pairs_of, average):
    """Both with sums of log-probs and with means over a response's tokens."""
    params, expected = vector["params"], vector["expected"]
    pairs = pairs_of(average)
    options = {"beta": params["beta"]}
    if vector["loss"].startswith("rpo"):
        options["eta"] = params["gt_reward_scale"]

    def values(log_probs):
        chosen = pairs.chosen._replace(log_probs=log_probs)
        loss = VALUES[vector["loss"]](pairs._replace(chosen=chosen), **options)
        return loss.values.sum(), loss

    gradient, loss = jax.grad(values, has_aux=True)(pairs.chosen.log_probs)
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


@pytest.mark.vectors("dpo")
def test_length_normalised_dpo_of_sums_is_dpo_of_means(vector, pairs_of):
    loss = losses.dpo_norm(pairs_of(average=False), beta=vector["params"]["beta"])
    expected = vector["expected"]["loss_if_average_log_probs"]
    assert float(loss.values.mean()) == pytest.approx(expected, rel=2e-5)


@pytest.mark.vectors("pref_plus_sft")
def test_adds_the_sft_term_of_the_vectors(vector, pairs_of):
    params, expected = vector["params"], vector["expected"]
    loss = losses.PREFERENCES[params["preference_loss"].split("_")[0]](
        pairs_of(params["average_log_probs"]),
        beta=params["beta"],
        sft_weight=params["sft_loss_weight"],
        preference_weight=params["preference_loss_weight"],
    )
    loss_sum, weight, metrics = losses.reduce(loss)
    means = {name: float(total / count) for name, (total, count) in metrics.items()}
    assert float(loss_sum / weight) == pytest.approx(expected["loss"], rel=2e-5)
    assert means["preference_loss"] == pytest.approx(
        expected["preference_loss"], rel=2e-5
    )
    assert means["sft_loss"] == pytest.approx(expected["sft_loss_chosen"], rel=2e-5)


def test_parts_of_a_batch_add_up_to_the_batch(reduced, pairs):
    parts = [reduced(taken(pairs, part)) for part in (slice(0, 3), slice(3, N))]
    added = jax.tree.map(lambda a, b: a + b, *parts)
    chex.assert_trees_all_close(reduced(pairs), added, rtol=1e-5, atol=1e-5)


def test_order_of_pairs_does_not_matter(reduced, pairs):
    turned = reduced(taken(pairs, slice(None, None, -1)))
    chex.assert_trees_all_close(reduced(pairs), turned, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -1e30])
def test_invalid_entries_change_neither_values_nor_gradients(reduced, pairs, garbage):
    padded = jax.tree.map(lambda x: jnp.append(x, jnp.full(3, garbage)), pairs)
    padded = padded._replace(valid=jnp.arange(N + 3) < N)

    def gradients(pairs):
        numbers = pairs._replace(valid=None)
        return jax.grad(lambda x: reduced(x._replace(valid=pairs.valid))[0])(numbers)

    chex.assert_trees_all_close(reduced(pairs), reduced(padded), rtol=1e-5, atol=1e-5)
    expected = jax.tree.map(lambda x: jnp.append(x, jnp.zeros(3)), gradients(pairs))
    chex.assert_trees_all_close(gradients(padded), expected, rtol=1e-5)


def test_reports_sums_and_weights_of_all_metrics(reduced, pairs):
    _, weight, metrics = reduced(pairs)
    assert weight == N
    for metric_sum, metric_weight in metrics.values():
        chex.assert_shape([metric_sum, metric_weight], ())
        assert metric_weight == N


def test_at_the_reference_every_gap_is_exactly_zero():
    same = Responses(*[jnp.array([-3.25, -700.1])] * 2)
    other = Responses(*[jnp.array([-6.1, -12.3])] * 2)
    for name in ("dpo", "ipo", "apo_zero", "apo_down"):
        metrics = PREFERENCES[name](Pairs(same, other), beta=0.1).metrics
        assert not metrics["log_ratio_gap"].any() and not metrics["kl_estimate"].any()


@pytest.mark.parametrize("name", PREFERENCES)
def test_no_loss_at_all_is_an_error(name, pairs):
    with pytest.raises(ValueError, match="both 0"):
        PREFERENCES[name](pairs, beta=0.1, sft_weight=0.0, preference_weight=0.0)


NEEDED = {
    "reference": losses.PREFERENCES.keys() - losses.REFERENCE_FREE,
    "tokens": {"simpo", "orpo", "dpo_norm", "llama3_dpo"},
    "rewards": {"rpo"},
}


@pytest.mark.parametrize("field", NEEDED)
@pytest.mark.parametrize("name", [*losses.PREFERENCES, "llama3_dpo"])
def test_a_field_that_is_missing_is_named_or_not_needed(name, field, pairs):
    """What is not needed may be left out and changes nothing."""
    lacking = pairs._replace(rejected=pairs.rejected._replace(**{field: None}))
    loss = functools.partial(PREFERENCES[name], beta=0.1)
    if name in NEEDED[field] or (field, name) == ("reference", "llama3_dpo"):
        with pytest.raises(ValueError, match=f"this loss needs '{field}'"):
            loss(lacking)
        return
    lacking = lacking._replace(chosen=pairs.chosen._replace(**{field: None}))
    chex.assert_trees_all_equal(loss(lacking).values, loss(pairs).values)

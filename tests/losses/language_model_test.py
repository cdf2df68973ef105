import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.losses import language_model

VECTORS = ("sft_masked_ce",)


def _aligned(vector):
    """Token log-probs of the vector's logits, aligned with the tokens."""
    logits_BSV = jnp.array(vector["inputs"]["logits"])
    tokens_BS = jnp.array(vector["inputs"]["tokens"])
    log_probs_BSV = jax.nn.log_softmax(logits_BSV[:, :-1])
    log_probs_BS = jnp.take_along_axis(log_probs_BSV, tokens_BS[:, 1:, None], 2)[..., 0]
    return jnp.pad(log_probs_BS, ((0, 0), (1, 0)))


def test_is_the_masked_cross_entropy_of_the_vectors(vector):
    expected = vector["expected"]
    log_probs_BS = _aligned(vector)
    chex.assert_trees_all_close(
        log_probs_BS[:, 1:], np.float32(expected["per_token_logps"]), rtol=2e-5
    )
    mask_BS = jnp.array(vector["inputs"]["loss_mask"])
    loss_sum, weight, metrics = language_model.loss(log_probs_BS, mask_BS)
    assert weight == expected["num_tokens"]
    assert loss_sum == pytest.approx(expected["loss_sum"], rel=2e-5)
    assert loss_sum / weight == pytest.approx(expected["loss_token_mean"], rel=2e-5)
    assert metrics["loss"] == (loss_sum, weight)


def test_gradient_is_minus_the_mask():
    mask_BS = jnp.array([[0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    gradient_BS = jax.grad(lambda x: language_model.loss(x, mask_BS)[0])(-mask_BS - 1)
    chex.assert_trees_all_equal(gradient_BS, -mask_BS)


def test_sums_and_weights_of_parts_add_up_to_those_of_the_batch():
    rng = np.random.default_rng(0)
    log_probs_BS = -rng.exponential(size=(6, 9)).astype(np.float32)
    mask_BS = rng.integers(0, 2, (6, 9))
    whole = language_model.loss(jnp.array(log_probs_BS), jnp.array(mask_BS))
    parts = [
        language_model.loss(jnp.array(log_probs_BS[part]), jnp.array(mask_BS[part]))
        for part in (slice(0, 1), slice(1, 6))
    ]
    chex.assert_trees_all_close(
        whole, jax.tree.map(lambda a, b: a + b, *parts), rtol=1e-6
    )


@pytest.mark.parametrize("garbage", [np.nan, -np.inf])
def test_log_probs_without_mask_do_not_matter(garbage):
    log_probs_BS = jnp.array([[garbage, -1.0, -2.0, garbage]])
    mask_BS = jnp.array([[0, 1, 1, 0]])
    loss_sum, weight, _ = language_model.loss(log_probs_BS, mask_BS)
    assert (loss_sum, weight) == (3.0, 2.0)


def test_half_precision_is_summed_in_float32():
    log_probs_BS = jnp.full((1, 4096), -1.0, jnp.bfloat16)
    loss_sum, weight, _ = language_model.loss(log_probs_BS, jnp.ones((1, 4096)))
    chex.assert_type([loss_sum, weight], jnp.float32)
    assert loss_sum == 4096

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax import losses

LOG_PROBS = np.array([[0.0, -1.0, -2.0, 0.0, -4.0], [0.0, -8.0, -16.0, 99.0, 99.0]])
MASK = np.array([[0, 1, 1, 0, 1], [0, 0, 1, 1, 1]])
# Sequences 0 and 1 share a row; the end of the other one is padding (id 3).
IDS = np.array([[0, 0, 0, 1, 1], [2, 2, 2, 3, 3]])


def _reduced(log_probs_BS, mask_BS):
    log_probs_BS, mask_BS = jnp.asarray(log_probs_BS), jnp.asarray(mask_BS)
    return losses.reduce(losses.language_model(log_probs_BS, mask_BS))


def _aligned(vector):
    """Token log-probs of the vector's logits, aligned with the tokens."""
    logits_BSV = jnp.array(vector["inputs"]["logits"])
    tokens_BS = jnp.array(vector["inputs"]["tokens"])
    log_probs_BSV = jax.nn.log_softmax(logits_BSV[:, :-1])
    log_probs_BS = jnp.take_along_axis(log_probs_BSV, tokens_BS[:, 1:, None], 2)[..., 0]
    return jnp.pad(log_probs_BS, ((0, 0), (1, 0)))


@pytest.mark.vectors("sft_masked_ce")
def test_is_the_masked_cross_entropy_of_the_vectors(vector):
    expected = vector["expected"]
    log_probs_BS = _aligned(vector)
    chex.assert_trees_all_close(
        log_probs_BS[:, 1:], np.float32(expected["per_token_logps"]), rtol=2e-5
    )
    mask_BS = jnp.array(vector["inputs"]["loss_mask"])
    loss_sum, weight, metrics = _reduced(log_probs_BS, mask_BS)
    assert weight == expected["num_tokens"]
    assert loss_sum == pytest.approx(expected["loss_sum"], rel=2e-5)
    assert loss_sum / weight == pytest.approx(expected["loss_token_mean"], rel=2e-5)
    assert metrics["loss"] == (loss_sum, weight)


def test_gradient_is_minus_the_mask():
    mask_BS = jnp.array([[0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    gradient_BS = jax.grad(lambda x: _reduced(x, mask_BS)[0])(-mask_BS - 1)
    chex.assert_trees_all_equal(gradient_BS, -mask_BS)


def test_sums_and_weights_of_parts_add_up_to_those_of_the_batch():
    rng = np.random.default_rng(0)
    log_probs_BS = -rng.exponential(size=(6, 9)).astype(np.float32)
    mask_BS = rng.integers(0, 2, (6, 9))
    whole = _reduced(log_probs_BS, mask_BS)
    parts = [
        _reduced(log_probs_BS[part], mask_BS[part])
        for part in (slice(0, 1), slice(1, 6))
    ]
    chex.assert_trees_all_close(
        whole, jax.tree.map(lambda a, b: a + b, *parts), rtol=1e-6
    )


@pytest.mark.parametrize("garbage", [np.nan, -np.inf])
def test_log_probs_without_mask_do_not_matter(garbage):
    log_probs_BS = jnp.array([[garbage, -1.0, -2.0, garbage]])
    mask_BS = jnp.array([[0, 1, 1, 0]])
    loss_sum, weight, _ = _reduced(log_probs_BS, mask_BS)
    assert (loss_sum, weight) == (3.0, 2.0)


def test_half_precision_is_summed_in_float32():
    log_probs_BS = jnp.full((1, 4096), -1.0, jnp.bfloat16)
    loss_sum, weight, _ = _reduced(log_probs_BS, jnp.ones((1, 4096)))
    chex.assert_type([loss_sum, weight], jnp.float32)
    assert loss_sum == 4096


def _sums(log_probs_BS, mask_BS=MASK, ids_BS=IDS, num_sequences=3):
    return losses.sequence_log_probs(
        jnp.array(log_probs_BS), jnp.array(mask_BS), jnp.array(ids_BS), num_sequences
    )


def test_sums_the_targets_of_each_sequence():
    chex.assert_trees_all_equal(_sums(LOG_PROBS), jnp.array([-3.0, -4.0, -16.0]))


def test_does_not_depend_on_packing():
    """The same sequences one per row, with padding, have the same sums."""
    rows = [LOG_PROBS[0, :3], LOG_PROBS[0, 3:], LOG_PROBS[1, :3]]
    masks = [MASK[0, :3], MASK[0, 3:], MASK[1, :3]]
    unpacked = np.zeros((3, 8))
    mask = np.zeros((3, 8))
    ids = np.full((3, 8), 3)
    for index, (row, row_mask) in enumerate(zip(rows, masks, strict=True)):
        unpacked[index, : len(row)] = row
        mask[index, : len(row)] = row_mask
        ids[index, : len(row)] = index
    chex.assert_trees_all_equal(_sums(unpacked, mask, ids), _sums(LOG_PROBS))


def test_gradient_reaches_exactly_the_targets_of_the_sequence():
    gradient_BS = jax.grad(lambda x: _sums(x)[2])(jnp.array(LOG_PROBS))
    chex.assert_trees_all_equal(
        gradient_BS, jnp.array([[0.0] * 5, [0.0, 0.0, 1.0, 0.0, 0.0]])
    )


def test_absent_sequences_and_those_without_targets_have_zero():
    sums_N = _sums(np.full((2, 5), np.nan), np.zeros((2, 5)), IDS, 5)
    chex.assert_trees_all_equal(sums_N, jnp.zeros(5))


def test_targets_of_sequences_are_counted():
    count_N = losses.sequence_targets(jnp.array(MASK), jnp.array(IDS), 4)
    chex.assert_trees_all_equal(count_N, jnp.array([2.0, 1.0, 1.0, 2.0]))

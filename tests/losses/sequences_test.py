import chex
import jax
import jax.numpy as jnp
import numpy as np

from nemojax.losses import sequences

LOG_PROBS = np.array([[0.0, -1.0, -2.0, 0.0, -4.0], [0.0, -8.0, -16.0, 99.0, 99.0]])
MASK = np.array([[0, 1, 1, 0, 1], [0, 0, 1, 1, 1]])
# Sequences 0 and 1 share a row; the end of the other one is padding (id 3).
IDS = np.array([[0, 0, 0, 1, 1], [2, 2, 2, 3, 3]])


def _sums(log_probs_BS, mask_BS=MASK, ids_BS=IDS, num_sequences=3):
    return sequences.sequence_log_probs(
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

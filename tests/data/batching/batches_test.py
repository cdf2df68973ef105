import chex
import numpy as np
import pytest

from nemojax.data.batching import batches
from nemojax.errors import UserError

ROWS = np.array([[2, 5, 6, 2, 7], [8, 9, 2, 2, 4]])


def test_full_rows_are_one_segment_and_all_but_the_first_token_are_targets():
    batch = batches.from_rows(ROWS)
    chex.assert_trees_all_equal(
        batch,
        batches.Batch(
            tokens=ROWS.astype(np.int32),
            loss_mask=np.array([[0, 1, 1, 1, 1]] * 2, np.float32),
            segment_ids=None,
            positions=np.array([[0, 1, 2, 3, 4]] * 2, np.int32),
        ),
    )
    chex.assert_trees_all_equal_dtypes(
        batch,
        batches.Batch(np.int32(0), np.float32(0), None, np.int32(0)),
    )
    given = batches.from_rows(ROWS, np.ones_like(ROWS))
    chex.assert_trees_all_equal(given._replace(segment_ids=None), batch)


def test_segments_restart_positions_and_have_no_first_target():
    batch = batches.from_rows(ROWS, np.array([[1, 1, 1, 2, 2], [1, 1, 2, 3, 3]]))
    np.testing.assert_array_equal(batch.positions, [[0, 1, 2, 0, 1], [0, 1, 0, 0, 1]])
    np.testing.assert_array_equal(batch.loss_mask, [[0, 1, 1, 0, 1], [0, 1, 0, 0, 1]])


def test_too_little_room_for_the_targets_of_a_group_is_refused():
    mask = np.array([[0, 1, 0, 0], [0, 0, 1, 1]], np.float32)
    np.testing.assert_array_equal(batches.target_indices(mask, 2, 2), [[1, 0], [2, 3]])
    np.testing.assert_array_equal(batches.target_indices(mask, 1, 3), [[1, 6, 7]])
    for groups, room in ((1, 2), (2, 1)):
        with pytest.raises(UserError, match=f"targets in .* room for {room}"):
            batches.target_indices(mask, groups, room)


@pytest.mark.parametrize("n", [0, 1, 1000])
def test_an_epoch_visits_every_example_once(n):
    np.testing.assert_array_equal(np.sort(batches.epoch_order(7, 0, n)), np.arange(n))


def test_order_is_a_function_of_seed_and_epoch():
    orders = {
        (seed, epoch): batches.epoch_order(seed, epoch, 50).tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len({tuple(order) for order in orders.values()}) == 4
    assert batches.epoch_order(1, 0, 50).tolist() == orders[1, 0]


def test_order_is_the_same_on_every_machine():
    """Written down, for a run to resume with another version of numpy."""
    order = batches.epoch_order(seed=1, epoch=2, n=8)
    assert order.tolist() == [7, 1, 3, 0, 4, 2, 6, 5]

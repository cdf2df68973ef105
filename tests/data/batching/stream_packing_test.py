import collections

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from nemojax.data.batching import packing

ROWS, LENGTH, MOST = 3, 16, 7


def _sequences(group_lengths):
    """Groups of sequences of these lengths, all tokens of all of them different."""
    token = 0
    groups = []
    for lengths in group_lengths:
        group = []
        for length in lengths:
            tokens = list(range(token + 1, token + 1 + length))
            group.append((tokens, [0] + [t % 2 for t in tokens[1:]]))
            token += length
        groups.append(group)
    return groups


def _pack(groups, **options):
    sizes = {"rows": ROWS, "length": LENGTH, "max_sequences": MOST, **options}
    return list(packing.pack(groups, **sizes))


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(
    strategies.lists(
        strategies.lists(strategies.integers(1, LENGTH + 2), min_size=1, max_size=4),
        max_size=20,
    )
)
def test_every_sequence_is_whole_and_in_one_place(group_lengths):
    groups = _sequences(group_lengths)
    skipped = []
    batches = _pack(groups, skipped=skipped)
    members = [index for batch in batches for index in batch.members]
    left_out = [skip.index for skip in skipped]
    assert members == sorted(members)
    assert sorted(members + left_out) == list(range(len(groups)))

    tokens = collections.Counter(t for b in batches for t in b.tokens[b.tokens > 0])
    expected = [t for i in members for sequence, _ in groups[i] for t in sequence]
    assert tokens == collections.Counter(expected)

    for batch in batches:
        sequences = [sequence for i in batch.members for sequence in groups[i]]
        assert batch.num_sequences == len(sequences) <= MOST
        for sequence_id, (ids, mask) in enumerate(sequences):
            rows, columns = np.nonzero(batch.sequence_ids == sequence_id)
            where = (rows, columns)
            assert len(set(rows)) == 1
            np.testing.assert_array_equal(columns, columns[0] + np.arange(len(ids)))
            np.testing.assert_array_equal(batch.tokens[where], ids)
            np.testing.assert_array_equal(batch.loss_mask[where], mask)
            np.testing.assert_array_equal(batch.positions[where], np.arange(len(ids)))
            assert len(set(batch.segment_ids[where])) == 1
            assert batch.tokens.ravel()[batch.last_token[sequence_id]] == ids[-1]


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(
    strategies.lists(strategies.integers(1, LENGTH), min_size=1, max_size=40)
)
def test_shapes_padding_and_segments(lengths):
    for batch in _pack(_sequences([[length] for length in lengths])):
        arrays = (*batch.batch, batch.sequence_ids)
        assert {array.shape for array in arrays} == {(ROWS, LENGTH)}
        assert batch.last_token.shape == (MOST,)
        assert {array.dtype for array in arrays} == {
            np.dtype(np.int32),
            np.dtype(np.float32),
        }
        padding = batch.segment_ids == 0
        np.testing.assert_array_equal(padding, batch.sequence_ids == MOST)
        for array in batch.batch:
            assert not array[padding].any()
        for row in batch.segment_ids:
            present = row[row > 0]
            assert (np.diff(present) >= 0).all()
            assert set(present) == set(range(1, present.max(initial=0) + 1))
            assert not row[len(present) :].any()
        assert not batch.last_token[batch.num_sequences :].any()


def test_a_sequence_goes_to_the_first_row_with_room():
    (batch,) = _pack(_sequences([[10], [8], [6], [8], [2]]))
    rows = [np.nonzero(batch.sequence_ids == i)[0][0] for i in range(5)]
    assert rows == [0, 1, 0, 1, 2]


def test_pairs_stay_together_and_chosen_is_even():
    groups = _sequences([[5, 9]] * 6)
    batches = _pack(groups, max_sequences=4)
    assert [batch.members for batch in batches] == [(0, 1), (2, 3), (4, 5)]
    for batch in batches:
        for place, index in enumerate(batch.members):
            for side in (0, 1):
                where = batch.sequence_ids == 2 * place + side
                assert batch.tokens[where].tolist() == groups[index][side][0]


def test_a_full_batch_is_not_disturbed_by_a_group_that_does_not_fit():
    """The room that the first of a pair would take is given back."""
    batches = _pack(_sequences([[16], [16], [8], [8, 16], [8]]))
    assert [batch.members for batch in batches] == [(0, 1, 2), (3, 4)]


def test_groups_that_fit_no_batch_are_reported_with_the_reason():
    groups = _sequences([[3], [17], [16] * 4, [1] * 8, [3]])
    skipped = []
    (batch,) = _pack(groups, skipped=skipped)
    assert batch.members == (0, 4)
    assert [skip.index for skip in skipped] == [1, 2, 3]
    assert skipped[0].reason == "a sequence of 17 tokens is longer than a row of 16"
    assert "4 sequences do not fit" in skipped[1].reason
    assert "8 sequences do not fit" in skipped[2].reason


def test_groups_that_fit_no_batch_are_errors_if_nobody_takes_the_report():
    with pytest.raises(ValueError, match="group 1: a sequence of 17 tokens"):
        _pack(_sequences([[3], [17]]))

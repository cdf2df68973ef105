"""Sequences lie whole in their rows, and the arrays say where."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from nemojax.data.batching import packing

LENGTH = 16
SIZES = strategies.lists(strategies.integers(1, LENGTH), max_size=30)


def sequences(sizes):
    """Sequences of these lengths, all tokens of all of them different."""
    pairs = zip(sizes, np.cumsum(sizes), strict=True)
    found = [list(range(end - size + 1, end + 1)) for size, end in pairs]
    return [(tokens, [0] + [token % 2 for token in tokens[1:]]) for tokens in found]


def packed(sizes, spare_rows=0, spare_sequences=0):
    row_of = packing.first_fit_decreasing(sizes, LENGTH)
    return packing.assemble(
        sequences(sizes),
        row_of,
        tuple(range(len(sizes))),
        rows=max(row_of, default=0) + 1 + spare_rows,
        length=LENGTH,
        max_sequences=len(sizes) + spare_sequences,
    )


@hypothesis.given(SIZES)
def test_every_sequence_is_whole_and_in_one_place(sizes):
    batch = packed(sizes, spare_rows=1, spare_sequences=2)
    assert batch.num_sequences == len(sizes)
    assert np.count_nonzero(batch.tokens) == sum(sizes)
    for number, (tokens, mask) in enumerate(sequences(sizes)):
        where = rows, columns = np.nonzero(batch.sequence_ids == number)
        assert len(set(rows)) == 1
        np.testing.assert_array_equal(columns, columns[0] + np.arange(len(tokens)))
        np.testing.assert_array_equal(batch.tokens[where], tokens)
        np.testing.assert_array_equal(batch.loss_mask[where], mask)
        np.testing.assert_array_equal(batch.positions[where], np.arange(len(tokens)))
        assert len(set(batch.segment_ids[where])) == 1
        assert batch.tokens.ravel()[batch.last_token[number]] == tokens[-1]


@hypothesis.given(SIZES)
def test_segments_count_from_one_in_a_row_and_padding_is_zero(sizes):
    batch = packed(sizes, spare_rows=1, spare_sequences=2)
    padding = batch.segment_ids == 0
    np.testing.assert_array_equal(padding, batch.sequence_ids == len(sizes) + 2)
    for array in batch.batch[:4]:
        assert array.shape == batch.sequence_ids.shape
        assert array.dtype in (np.int32, np.float32)
        assert not array[padding].any()
    for row in batch.segment_ids:
        present = row[row > 0]
        assert (np.diff(present) >= 0).all()
        assert set(present) == set(range(1, present.max(initial=0) + 1))
        assert not row[len(present) :].any()
    assert batch.last_token.shape == (len(sizes) + 2,)
    assert not batch.last_token[batch.num_sequences :].any()


@hypothesis.given(SIZES)
def test_no_sequence_would_fit_an_earlier_row(sizes):
    row_of = np.array(packing.first_fit_decreasing(sizes, LENGTH), int)
    loads = np.bincount(row_of, weights=sizes) if sizes else np.zeros(0)
    assert (loads <= LENGTH).all()
    for size, row in zip(sizes, row_of, strict=True):
        assert (loads[:row] + size > LENGTH).all()


def test_a_sequence_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="a sequence has 17 tokens, a row 16"):
        packing.first_fit_decreasing([3, 17], LENGTH)


@pytest.mark.parametrize(
    ("group", "problem"),
    [
        ([], "has no sequences"),
        ([([], [])], "a sequence of 0 tokens"),
        ([([1, 2], [0])], "2 tokens with a loss mask of 1"),
        ([([1, 2], [1, 1])], "first token of a sequence cannot be a target"),
    ],
)
def test_malformed_groups_are_named(group, problem):
    with pytest.raises(ValueError, match=f"group 0.*{problem}"):
        packing.check_group(0, group)

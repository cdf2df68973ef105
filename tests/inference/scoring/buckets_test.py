"""Padded batches hold every sequence once, in few shapes of about equal size."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemojax.inference.scoring.buckets import Buckets, batches


def sequences(sizes):
    return [
        (np.full(size, index, np.int32), np.arange(size) % 2 == 1)
        for index, size in enumerate(sizes)
    ]


@settings(max_examples=60)
@given(
    st.integers(1, 700),
    st.sampled_from([1, 8, 24, 128]),
    st.sampled_from([1, 2, 3]),
    st.integers(1, 2000),
)
def test_lengths_rise_are_multiples_and_hold_the_longest(most, multiple, data, tokens):
    buckets = Buckets(most, tokens, multiple, data)
    lengths = buckets.lengths
    assert list(lengths) == sorted(set(lengths))
    assert all(length % multiple == 0 for length in lengths)
    assert lengths[-1] >= most and (len(lengths) == 1 or lengths[-2] < most)
    for length in lengths:
        rows = buckets.rows(length)
        assert rows % data == 0 and rows > 0
        assert rows * length <= max(tokens, data * length)


def test_the_lengths_are_powers_of_two_and_those_between():
    assert Buckets(512, 4096).lengths == (
        16,
        24,
        32,
        48,
        64,
        96,
        128,
        192,
        256,
        384,
        512,
    )
    assert Buckets(100, 4096).lengths == (16, 24, 32, 48, 64, 96, 104)
    assert Buckets(512, 4096, 128).lengths == (128, 256, 384, 512)
    assert len(Buckets(16_384, 1).lengths) == 21


@settings(max_examples=60)
@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 300))
def test_every_sequence_is_in_one_batch_as_it_is(sizes, tokens):
    found = list(batches(sequences(sizes), Buckets(50, tokens)))
    members = [index for batch in found for index in batch.members]
    assert sorted(members) == list(range(len(sizes)))
    for batch in found:
        rows = zip(batch.tokens, batch.loss_mask, batch.lengths, strict=True)
        for row, (ids, mask, length) in enumerate(rows):
            if row >= len(batch.members):
                assert length == 1 and not ids.any() and not mask.any()
                continue
            index = batch.members[row]
            assert length == sizes[index]
            assert (ids[:length] == index).all() and not ids[length:].any()
            assert mask.sum() == length // 2 and not mask[length:].any()


@settings(max_examples=60)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_only_the_last_batch_has_free_rows(sizes):
    *full, _ = batches(sequences(sizes), Buckets(50, 100))
    assert all(len(batch.members) == len(batch.tokens) for batch in full)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_few_sequences_that_are_left_have_no_shape_of_their_own(sizes):
    found = list(batches(sequences(sizes), Buckets(50, 100)))
    for before, last in itertools.pairwise(found[-2:]):
        same = last.tokens.shape == before.tokens.shape
        assert same or len(last.members) > len(before.tokens)


@pytest.mark.parametrize("size", [0, 51])
def test_what_fits_no_batch_is_named(size):
    with pytest.raises(ValueError, match=f"sequence 1 has {size} tokens; from 1 to 50"):
        list(batches(sequences([3, size]), Buckets(50, 100)))


@pytest.mark.parametrize("name", ["max_length", "batch_tokens", "row_multiple"])
def test_sizes_are_positive(name):
    with pytest.raises(ValueError, match=f"{name}=0 must be positive"):
        Buckets(**{"max_length": 1, "batch_tokens": 1} | {name: 0})

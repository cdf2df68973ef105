"""The log-probs of the reference on the disk."""

import numpy as np
import pytest

from nemojax.data.batching.example_batches import ExampleBatches
from nemojax.training.reference import ReferenceCache

GROUPS = [
    [([1, 2, 3 + index % 4], [0, 1, 1]), ([1, 2, 3, 4], [0, 0, 1, 1])]
    for index in range(10)
]
MARK = {"parameters": "a", "examples": "b"}


def batches(epochs=1):
    return ExampleBatches(GROUPS, batch=4, length=8, epochs=epochs, seed=1)


def log_probs(packed):
    """Of a sequence: minus the sum of its tokens."""
    sums = np.zeros(len(packed.last_token) + 1, np.float32)
    np.add.at(sums, packed.sequence_ids, -packed.tokens.astype(np.float32))
    return sums[:-1]


def filled(directory, mark=MARK, function=log_probs):
    cache = ReferenceCache(directory, mark, len(GROUPS))
    cache.fill(batches(), function)
    return cache


def test_holds_what_every_pair_has(tmp_path):
    cache = filled(tmp_path)
    expected = [[-sum(tokens) for tokens, _ in group] for group in GROUPS]
    np.testing.assert_array_equal(cache.values, np.array(expected, np.float32))
    np.testing.assert_array_equal(cache.of([3, 1]), [-9, -10, -7, -10])
    assert cache.computed == 3


def test_is_read_back_and_not_computed_again(tmp_path):
    values = np.array(filled(tmp_path).values)
    again = filled(tmp_path)
    assert again.computed == 0
    np.testing.assert_array_equal(again.values, values)


def test_goes_on_where_it_was_interrupted(tmp_path):
    calls = []

    def fails_at_the_third(packed):
        calls.append(packed.members)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return log_probs(packed)

    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path, function=fails_at_the_third)
    cache = ReferenceCache(tmp_path, MARK, len(GROUPS))
    assert np.isnan(cache.values).any(1).sum() == 2
    with pytest.raises(ValueError, match="missing"):
        cache.of(calls[2])
    assert filled(tmp_path).computed == 1


@pytest.mark.parametrize("name", MARK)
def test_another_fingerprint_begins_anew(tmp_path, name):
    filled(tmp_path)
    cache = ReferenceCache(tmp_path, MARK | {name: "other"}, len(GROUPS))
    assert np.isnan(cache.values).all()
    # And the one before is forgotten, too.
    assert np.isnan(ReferenceCache(tmp_path, MARK, len(GROUPS)).values).all()


def test_a_file_of_another_size_is_not_taken(tmp_path):
    filled(tmp_path)
    assert np.isnan(ReferenceCache(tmp_path, MARK, 11).values).all()


def test_each_damaged_pair_is_computed_again_and_no_other(tmp_path):
    """Whatever bit of the file is flipped."""
    values = np.array(filled(tmp_path).values)
    path = tmp_path / "reference.bin"
    whole = path.read_bytes()
    size = len(whole) // len(GROUPS)
    for bit in range(0, 8 * len(whole), 5):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        found = ReferenceCache(tmp_path, MARK, len(GROUPS)).values
        wrong = np.arange(len(GROUPS)) == bit // 8 // size
        np.testing.assert_array_equal(np.isnan(found).any(1), wrong)
    np.testing.assert_array_equal(filled(tmp_path).values, values)


def test_values_of_other_pairs_and_files_are_not_taken(tmp_path):
    """Also where they came whole from there."""
    filled(tmp_path / "a")
    filled(tmp_path / "b", MARK | {"examples": "c"})
    path = tmp_path / "a" / "reference.bin"
    whole = path.read_bytes()
    path.write_bytes((tmp_path / "b" / "reference.bin").read_bytes())
    assert np.isnan(ReferenceCache(tmp_path / "a", MARK, len(GROUPS)).values).all()
    size = len(whole) // len(GROUPS)
    path.write_bytes(whole[size : 2 * size] + whole[:size] + whole[2 * size :])
    found = ReferenceCache(tmp_path / "a", MARK, len(GROUPS)).values
    assert np.flatnonzero(np.isnan(found).any(1)).tolist() == [0, 1]


@pytest.mark.parametrize("length", [0, 4, 64])
def test_a_torn_file_is_not_taken(tmp_path, length):
    filled(tmp_path)
    path = tmp_path / "reference.bin"
    path.write_bytes(path.read_bytes()[:length])
    assert np.isnan(ReferenceCache(tmp_path, MARK, len(GROUPS)).values).all()


def test_a_reference_that_is_not_finite_names_the_pair(tmp_path):
    def broken(packed):
        return log_probs(packed) + np.where(np.arange(8) == 2, np.nan, 0)

    second = batches().members(0)[1]
    with pytest.raises(ValueError, match=f"pair {second} a log-prob"):
        filled(tmp_path, function=broken)


def test_epochs_do_not_change_what_is_computed(tmp_path):
    cache = ReferenceCache(tmp_path, MARK, len(GROUPS))
    cache.fill(batches(epochs=3), log_probs)
    np.testing.assert_array_equal(cache.values, filled(tmp_path / "one").values)
    assert cache.computed == 3

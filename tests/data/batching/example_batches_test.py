import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from nemojax.data.batching.example_batches import ExampleBatches, balanced


def groups(count, seed=0, each=1):
    rng = np.random.default_rng(seed)

    def one():
        size = int(rng.integers(2, 12))
        return rng.integers(1, 99, size), np.r_[0, np.ones(size - 1, int)]

    return [[one() for _ in range(each)] for _ in range(count)]


def content(packed):
    """Tokens and mask of every sequence, by its number."""
    return [
        (
            packed.tokens[packed.sequence_ids == number].tolist(),
            packed.loss_mask[packed.sequence_ids == number].tolist(),
        )
        for number in range(packed.num_sequences)
    ]


SHAPED = ("tokens", "loss_mask", "segment_ids", "positions", "sequence_ids")


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    count=st.integers(1, 40),
    each=st.integers(1, 2),
    batch=st.integers(1, 12),
    part_rows=st.integers(1, 6),
    epochs=st.integers(1, 3),
    pack=st.booleans(),
    multiple=st.integers(1, 3),
)
def test_parts_hold_the_examples_of_a_step_whole(
    count, each, batch, part_rows, epochs, pack, multiple
):
    """The same examples as in one part, in parts of one shape that is as asked for."""
    data = groups(count, seed=count, each=each)
    options = {"batch": batch, "length": 16, "epochs": epochs, "pack": pack}
    options["row_multiple"] = multiple
    whole = ExampleBatches(data, **options)
    batches = ExampleBatches(data, part_rows=part_rows, **options)
    assert len(batches) == len(whole) and whole.passes == 1
    assert batches.rows <= -(-max(part_rows, each) // multiple) * multiple
    met = []
    for k in range(len(batches)):
        parts = batches.parts(k)
        assert len(parts) == batches.passes
        members = [index for part in parts for index in part.members]
        assert sorted(members) == sorted(batches.members(k)) == sorted(whole.members(k))
        for part in parts:
            # A pair is whole: both of its sequences are among those of its members.
            expected = [s for index in part.members for s in data[index]]
            assert content(part) == [(list(t), list(m)) for t, m in expected]
            for name in SHAPED:
                assert getattr(part, name).shape == (batches.rows, 16)
            assert part.last_token.shape == (batches.sequences,)
        met += batches.members(k)
    for epoch in range(epochs):
        assert sorted(met[epoch * count : (epoch + 1) * count]) == list(range(count))


@hypothesis.settings(max_examples=30)
@hypothesis.given(
    count=st.integers(1, 40),
    each=st.integers(1, 2),
    part_rows=st.integers(0, 6),
    row_groups=st.integers(1, 3),
    pack=st.booleans(),
)
def test_the_indices_of_all_parts_point_at_all_targets(
    count, each, part_rows, row_groups, pack
):
    """In one shape, the smaller last batch too; none points twice at a token."""
    data = [
        [(ids, mask * (ids % 3 == 0)) for ids, mask in group]
        for group in groups(count, seed=count, each=each)
    ]
    found = ExampleBatches(
        data, batch=12, length=64, epochs=2, pack=pack, part_rows=part_rows,
        row_multiple=row_groups, head_groups=lambda rows: row_groups,
    )  # fmt: skip
    most = 0
    for k in range(len(found)):
        for part in found.parts(k):
            targets = part.loss_mask.reshape(row_groups, -1)
            most = max(most, targets.sum(1).max())
            if found.target_shape is None:
                assert part.target_indices is None
                continue
            assert part.batch.target_indices.shape == found.target_shape
            for ours, mask in zip(part.target_indices, targets, strict=True):
                assert set(np.flatnonzero(mask)) <= set(ours)
                assert len(set(ours)) == len(ours)
    if found.target_shape is None:
        assert most + 32 > found.rows * 64 / row_groups
    else:
        assert found.target_shape[1] < found.rows * 64 / row_groups
        assert found.target_shape[1] < most + 32


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("each", [1, 2])
def test_a_step_has_its_examples_in_order_whatever_the_rows(pack, each):
    data = groups(23, each=each)
    batches = ExampleBatches(data, batch=5, length=16, epochs=2, seed=4, pack=pack)
    assert len(batches) == 10
    met = []
    for k in range(len(batches)):
        (packed,) = batches.parts(k)
        assert packed.tokens.shape == (batches.rows, 16)
        assert packed.members == batches.members(k)
        expected = [s for index in packed.members for s in data[index]]
        assert content(packed) == [(list(t), list(m)) for t, m in expected]
        assert batches.tokens(k) == sum(len(tokens) for tokens, _ in expected)
        met += packed.members
    assert sorted(met[:23]) == sorted(met[23:]) == list(range(23))
    assert met[:23] != met[23:]


def test_packing_needs_fewer_rows():
    data = groups(40)
    packed = ExampleBatches(data, batch=8, length=32)
    single = ExampleBatches(data, batch=8, length=32, pack=False)
    assert packed.rows < single.rows == 8
    assert packed.slots == packed.rows * 32 < single.slots == 8 * 32


def test_rows_are_a_multiple_and_orders_can_be_left_out():
    batches = ExampleBatches(groups(9), batch=4, length=16, seed=None, row_multiple=6)
    assert batches.rows % 6 == 0
    assert [batches.members(k) for k in range(3)] == [(0, 1, 2, 3), (4, 5, 6, 7), (8,)]
    with pytest.raises(IndexError):
        batches.parts(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch=0 must be positive"),
        ({"length": 8}, "a row 8"),
        ({"groups": []}, "there is no example"),
        ({"groups": [[([1, 2], [1, 1])]]}, "first token of a sequence cannot"),
    ],
)
def test_bad_input_is_named(options, message):
    values = {"groups": groups(9), "batch": 4, "length": 16} | options
    data = values.pop("groups")
    with pytest.raises(ValueError, match=message):
        ExampleBatches(data, **values)


@hypothesis.given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 99))
def test_a_balanced_order_has_each_example_once_and_one_of_each_size_a_batch(
    count, batch, seed
):
    rng = np.random.default_rng(seed)
    order, sizes = rng.permutation(count), rng.integers(1, 100, count)
    found = balanced(order, sizes, batch)
    assert sorted(found) == list(range(count))
    steps = count // batch
    ranked = np.sort(sizes[order[: steps * batch]]).reshape(batch, steps)
    for k in range(steps):
        for place, size in enumerate(sizes[found[k * batch : (k + 1) * batch]]):
            assert ranked[place].min() <= size <= ranked[place].max()


def test_balanced_batches_need_fewer_rows_than_those_of_chance():
    data = groups(400, seed=1)
    chance = ExampleBatches(data, batch=16, length=16, seed=None)
    assert ExampleBatches(data, batch=16, length=16, seed=0).rows < chance.rows

"""No two indices that the engine writes at are equal, and each is where it belongs."""

import hypothesis
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from nemojax.inference.engine import paged_places

SLOTS, WIDTH, BLOCK, BLOCKS, VOCAB = 4, 3, 5, 20, 11


@st.composite
def spans(draw):
    """Block tables without a block in common, first positions, sizes, and tokens."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    S = draw(st.integers(1, WIDTH * BLOCK))
    blocks = 1 + rng.permutation(BLOCKS - 1)[: SLOTS * WIDTH]
    start = rng.integers(0, WIDTH * BLOCK - S + 1, SLOTS)
    size = rng.integers(0, S + 1, SLOTS)
    return blocks.reshape(SLOTS, WIDTH), start, size, rng.integers(0, VOCAB, (SLOTS, S))


def numbers(*parts):
    """Numbers that are equal where all parts are."""
    return np.ravel_multi_index(
        [np.ravel(part) for part in parts], (10_000,) * len(parts)
    )


@hypothesis.given(spans())
def test_tokens_have_their_place_and_the_others_none(span):
    table, start, size, tokens = span
    S = tokens.shape[1]
    places = paged_places.cached(*map(jnp.asarray, span[:3]), S, BLOCK, BLOCKS)
    block, place = map(np.asarray, places)
    found = numbers(block, place)
    assert len(set(found)) == len(found)
    cache = paged_places.put(
        jnp.full((BLOCKS, 2, BLOCK), -1), (block, slice(None), place),
        jnp.asarray(np.repeat(tokens[..., None], 2, -1)),
    )  # fmt: skip
    expected = np.full((BLOCKS, 2, BLOCK), -1)
    for row in range(SLOTS):
        for i in range(size[row]):
            at = start[row] + i
            expected[table[row, at // BLOCK], :, at % BLOCK] = tokens[row, i]
    np.testing.assert_array_equal(cache, expected)


@hypothesis.given(spans())
def test_each_token_of_a_prompt_is_named_once(span):
    _, _, size, tokens = span
    found = paged_places.first_of_each(jnp.asarray(tokens), jnp.asarray(size), VOCAB)
    for row, ids in enumerate(np.asarray(found)):
        assert len(set(ids)) == len(ids)
        assert set(ids[ids < VOCAB]) == set(tokens[row, : size[row]])


@hypothesis.given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_rows_without_a_slot_do_not_share_one(used):
    count = len(used)
    slot = np.where(used, np.random.default_rng(0).permutation(count), count)
    found = np.asarray(paged_places.slots(jnp.asarray(slot), count))
    assert len(set(found)) == count
    np.testing.assert_array_equal(found[used], slot[used])
    assert (found[~np.array(used)] >= count).all()

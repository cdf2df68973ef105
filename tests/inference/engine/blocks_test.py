"""Blocks are never lost, given twice, or shared by texts that begin differently."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemojax.inference.engine.blocks import BlockPool, OutOfBlocks

SIZE = 2


def written(contents, text, tokens):
    """What a device would write: the tokens that the text does not share."""
    for place in range(text.shared, len(tokens)):
        contents[text.blocks[place // SIZE], place % SIZE] = tokens[place]


def held(contents, text, count):
    """What the cache has for the first tokens of a text."""
    return [
        contents[text.blocks[place // SIZE], place % SIZE] for place in range(count)
    ]


@settings(max_examples=150)
@given(st.data())
def test_every_open_text_finds_its_own_tokens(data):
    pool = BlockPool(data.draw(st.integers(2, 12)), SIZE)
    contents, opened = {}, []
    for _ in range(data.draw(st.integers(1, 30))):
        if opened and data.draw(st.booleans()):
            text, _ = opened.pop(data.draw(st.integers(0, len(opened) - 1)))
            pool.close(text)
        else:
            # Of two tokens, so that texts often begin alike.
            tokens = data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=9))
            try:
                text = pool.open(tokens, 1)
            except OutOfBlocks:
                continue
            assert text.shared < len(tokens)
            written(contents, text, tokens)
            pool.remember(text, tokens)
            opened.append((text, tokens))
        for text, tokens in opened:
            assert held(contents, text, len(tokens)) == tokens
            assert 0 not in text.blocks
        used = {block for text, _ in opened for block in text.blocks}
        assert pool.free == pool.count - 1 - len(used)


def test_texts_share_full_blocks_but_never_a_whole_prompt():
    pool = BlockPool(20, SIZE)
    first = pool.open([1, 2, 3, 4], 2)
    assert (first.shared, len(first.blocks)) == (0, 3)
    pool.remember(first, [1, 2, 3, 4])
    again, longer, other = (
        pool.open(tokens, 2) for tokens in ([1, 2, 3, 4], [1, 2, 3, 4, 5], [3, 4, 3, 4])
    )
    assert [text.shared for text in (again, longer, other)] == [2, 4, 0]
    assert longer.blocks[:2] == first.blocks[:2]
    assert pool.open([1, 2, 3, 4], 2, share=False).shared == 0


def test_the_blocks_of_an_open_sequence_are_shared_before_they_are_known():
    pool = BlockPool(10, 2)
    first = pool.open([1, 2, 3, 4], 1)
    second = pool.open([1, 2, 3, 4], 1, like=first)
    assert (second.shared, second.blocks[:1]) == (2, first.blocks[:1])
    assert not {*second.blocks[1:]} & {*first.blocks}
    pool.close(first)
    assert second.blocks[0] not in pool.open([5] * 8, 1).blocks


def test_what_nobody_uses_is_known_until_its_place_is_needed():
    pool = BlockPool(5, SIZE)
    for tokens in ([1, 1, 1], [2, 2, 2]):
        text = pool.open(tokens, 1)
        pool.remember(text, tokens)
        pool.close(text)
    assert pool.free == 4
    text = pool.open([1, 1, 1], 1)
    assert text.shared == 2
    pool.close(text)
    pool.close(pool.open([3] * 5, 1))  # three of four: the longest unused are gone
    assert pool.open([1, 1, 1], 1).shared == 2
    assert pool.open([2, 2, 2], 1).shared == 0


def test_too_few_blocks_take_none():
    pool = BlockPool(4, SIZE)
    text = pool.open([1, 2], 2)
    with pytest.raises(OutOfBlocks):
        pool.open([1, 2], 3)
    assert pool.free == 1
    pool.close(text)
    assert pool.free == 3

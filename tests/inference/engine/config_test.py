"""An engine's cache takes what is free, and is refused where that is too little."""

import dataclasses

import pytest

from nemojax.errors import UserError
from nemojax.inference.engine import config as configs


@pytest.mark.parametrize(
    ("free", "blocks"),
    [
        (1e9, 257),  # four sequences of 1,024 tokens, and the block that is nobody's
        (257_000, 257),
        (256_999, 256),
        (65_000, 65),
    ],
)
def test_blocks_are_as_many_as_fit_and_no_more_than_asked_for(free, blocks):
    asked = configs.serving(4, 1024)
    found = asked.fitted(free, 1000.0)
    assert found == dataclasses.replace(asked, blocks=blocks)
    # Fewer blocks, but a sequence of the full length has room still.
    assert found.room == 1024


@pytest.mark.parametrize("free", [64_999, 0, -1e9])
def test_a_cache_without_room_for_one_sequence_is_refused(free):
    with pytest.raises(UserError, match="a sequence of 1024 tokens needs"):
        configs.serving(4, 1024).fitted(free, 1000.0)

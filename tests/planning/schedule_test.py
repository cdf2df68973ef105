"""The schedule does all work once, in an order in which everything is there."""

import itertools

import pytest

from nemojax.planning import schedule

SHAPES = [(4, 2, 8), (4, 1, 4), (2, 3, 6), (12, 8, 48), (1, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_chunk_of_every_stage_sees_every_micro_batch_once(shape):
    pipe, chunks, count = shape
    done = [(w.stage, w.chunk, w.micro_batch) for w in schedule.forward_table(*shape)]
    expected = itertools.product(range(pipe), range(chunks), range(count))
    assert sorted(done) == sorted(expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_stage_does_one_thing_a_tick_and_idles_p_minus_1_ticks(shape):
    pipe, chunks, count = shape
    table = schedule.forward_table(*shape)
    assert len({(w.tick, w.stage) for w in table}) == len(table)
    ticks = 1 + max(w.tick for w in table)
    assert ticks == count * chunks + pipe - 1
    idle = ticks - count * chunks
    assert idle / (count * chunks) == pytest.approx(schedule.bubble(*shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_activations_arrive_one_tick_before_they_are_needed(shape):
    """From the stage before; at stage 0 from the last stage's chunk before. So one
    exchange a tick is enough, and nothing has to be kept."""
    pipe = shape[0]
    when = {
        (w.stage, w.chunk, w.micro_batch): w.tick
        for w in schedule.forward_table(*shape)
    }
    for (stage, chunk, micro_batch), tick in when.items():
        if stage:
            assert tick == when[stage - 1, chunk, micro_batch] + 1
        elif chunk:
            assert tick == when[pipe - 1, chunk - 1, micro_batch] + 1


def test_a_picture_is_drawn(tmp_path):
    schedule.draw(tmp_path / "ring.svg", 2, 2, 4)
    assert "<svg" in (tmp_path / "ring.svg").read_text()

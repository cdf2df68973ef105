"""Timetables do all work once, in an order in which everything is there."""

import functools
import itertools

import numpy as np
import pytest

from nemojax.parallel.timetable import Timetable

# (micro-batches, chunks of a stage, stages)
SIZES = [(12, 2, 4), (9, 3, 3), (2, 4, 2), (6, 1, 2), (4, 3, 1), (3, 1, 1), (48, 8, 12)]
every_size = pytest.mark.parametrize("sizes", SIZES, ids=str)


@functools.cache
def when(sizes):
    """Of each pass: {(chunk of the model, micro-batch): (tick, stage, slot)}."""
    found = {"forwards": {}, "backwards": {}}
    for stage in range(sizes[2]):
        timetable = Timetable(*sizes, stage)
        for name, table in found.items():
            work = getattr(timetable, name)(np.arange(timetable.ticks))
            for tick in np.flatnonzero(work.real):
                chunk = int(work.chunk[tick]) * sizes[2] + stage
                key = chunk, int(work.micro_batch[tick])
                assert key not in table
                table[key] = int(tick), stage, int(work.slot[tick])
    return found["forwards"], found["backwards"]


@every_size
def test_every_chunk_sees_every_micro_batch_once_each_way(sizes):
    micro_batches, virtual_stages, stages = sizes
    expected = itertools.product(range(virtual_stages * stages), range(micro_batches))
    expected = set(expected)
    forwards, backwards = when(sizes)
    assert forwards.keys() == backwards.keys() == expected


@every_size
def test_a_stage_does_one_thing_a_tick_and_idles_p_minus_1_ticks(sizes):
    micro_batches, virtual_stages, stages = sizes
    places = [(tick, stage) for tick, stage, _ in when(sizes)[0].values()]
    assert len(set(places)) == len(places)
    ticks = 1 + max(tick for tick, _ in places)
    busy = micro_batches * virtual_stages
    assert ticks == Timetable(*sizes).forward_ticks == busy + stages - 1
    assert (ticks - busy) / busy == pytest.approx(Timetable(*sizes).bubble)


@every_size
def test_a_chunk_follows_the_one_before_by_a_tick_and_so_back_again(sizes):
    """So one exchange a tick and direction is enough."""
    forwards, backwards = when(sizes)
    for (chunk, m), (tick, _, _) in forwards.items():
        if chunk:
            assert tick == forwards[chunk - 1, m][0] + 1
            assert backwards[chunk - 1, m][0] == backwards[chunk, m][0] + 1


@every_size
def test_a_micro_batch_that_ends_goes_back_in_the_same_tick(sizes):
    micro_batches, virtual_stages, stages = sizes
    ticks = np.arange(Timetable(*sizes).ticks)
    work = Timetable(*sizes).ends(ticks)
    ends = {int(work.micro_batch[t]): int(t) for t in ticks if work.real[t]}
    last = virtual_stages * stages - 1
    for table in when(sizes):
        assert ends == {m: table[last, m][0] for m in range(micro_batches)}


@every_size
def test_a_slot_is_free_until_its_chunk_is_undone(sizes):
    """In a tick the forward pass comes first: it may not take what is read after it."""
    forwards, backwards = when(sizes)
    spans = {}
    for key, (tick, stage, slot) in forwards.items():
        back, same_stage, same_slot = backwards[key]
        assert (same_stage, same_slot) == (stage, slot)
        spans.setdefault((stage, slot), []).append((tick, back))
    for taken in spans.values():
        taken.sort()
        assert all(a[1] < b[0] for a, b in itertools.pairwise(taken))
    assert {slot for _, slot in spans} == set(range(Timetable(*sizes).slots))


def test_slots_do_not_grow_with_the_micro_batches():
    assert Timetable(48, 8, 12).slots == Timetable(768, 8, 12).slots == 144

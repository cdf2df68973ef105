"""The split is a stable function of the key, in the stated shares."""

import pytest

from nemojax.tasks.miniature import (
    code_tasks,
    fact_tasks,
    instruction_tasks,
    math_tasks,
    split,
    world,
)


def _share(keys):
    keys = set(keys)
    return sum(map(split.is_test, keys)) / len(keys)


def test_fifteen_percent_of_the_tuples_of_each_task_family_are_held_out():
    chains = [
        math_tasks.make_key(start, [("+", a), ("-", b)])
        for start in range(30)
        for a in range(10)
        for b in range(10)
    ]
    programs = [
        code_tasks.make_key([a, b, c], reducer)
        for a in code_tasks.OPERATIONS
        for b in code_tasks.OPERATIONS
        for c in code_tasks.OPERATIONS
        for reducer in code_tasks.REDUCERS
    ]
    requests = [
        instruction_tasks.make_key(category, count, language, constraints)
        for category in world.CATEGORIES
        for count in range(50)
        for language in world.LANGUAGES
        for constraints in [(), ("end",), ("start",), ("upper", "end")]
    ]
    for keys in (chains, programs, requests):
        assert _share(keys) == pytest.approx(0.15, abs=0.02)


def test_forty_percent_of_the_facts_are_never_asked_in_training():
    keys = [
        fact_tasks.make_key(country, attribute)
        for country in world.COUNTRIES
        for attribute in world.ATTRIBUTES
    ]
    assert len(keys) == 48 * 3
    assert _share(keys) == pytest.approx(0.40, abs=0.05)


def test_hash_does_not_change_between_processes_and_versions():
    # md5("a") = 0cc175b9c0f1b6a831c399e269772661
    assert split.stable_hash("a") == 0x0CC175B9


def test_the_two_sides_are_complements():
    for number in range(100):
        key = f"math:{number}:+1"
        assert split.belongs(key, "train") != split.belongs(key, "test")


def test_unknown_side_is_named():
    with pytest.raises(ValueError, match="'dev'"):
        split.belongs("math:1:+1", "dev")

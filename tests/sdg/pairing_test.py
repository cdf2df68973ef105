"""Properties of single prompts: which pairs are allowed, in which order."""

import itertools
import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemojax.sdg import pairing
from nemojax.sdg.pairing import JudgedPrompt


@dataclass(frozen=True)
class Question:
    family: str = "math"
    prompt: str = "1+1"


def judged(rewards, scores=None, texts=None) -> JudgedPrompt:
    texts = texts or [f"answer {i}" for i in range(len(rewards))]
    return JudgedPrompt(
        Question(),
        tuple(texts),
        tuple(map(float, rewards)),
        None if scores is None else tuple(scores),
    )


def allowed(row: JudgedPrompt, *, min_gap=0.0, min_score_gap=0.25, floor=float("-inf")):
    return pairing.candidates(
        row, min_gap=min_gap, min_score_gap=min_score_gap, floor=floor
    )


rewards = st.integers(-2, 2).map(float)
scores = st.sampled_from([None, 0.0, 0.25, 1 / 3, 0.5, 2 / 3, 1.0])


@given(st.lists(st.tuples(rewards, scores), max_size=6))
def test_pairs_with_a_verifier_are_exactly_those_that_it_supports(responses):
    row = judged([r for r, _ in responses], [s for _, s in responses])
    known = [s for _, s in responses if s is not None]
    some_passed = 1.0 in known and min(known) < 1
    expected = []
    for (i, (_, a)), (j, (_, b)) in itertools.permutations(enumerate(responses), 2):
        if a is None or b is None:
            continue
        passed = a == 1 and b < 1
        better = a - b >= 0.25
        if passed if some_passed else better:
            expected.append((i, j))
    found, reason = allowed(row)
    assert sorted(found) == sorted(expected)
    assert bool(found) == (reason == "")
    assert reason in ("", *pairing.REASONS)


@given(st.lists(rewards, max_size=6), st.integers(0, 3), rewards)
def test_pairs_without_a_verifier_are_exactly_those_with_gap_and_floor(
    values, gap, floor
):
    expected = [
        (i, j)
        for (i, a), (j, b) in itertools.permutations(enumerate(values), 2)
        if a > b and a - b >= gap and a >= floor
    ]
    found, _ = allowed(judged(values), min_gap=gap, floor=floor)
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize(
    ("row", "options", "reason"),
    [
        (judged([1]), {}, "too_few"),
        (judged([1, 2], [1.0, None]), {}, "unextractable"),
        (judged([1, 1]), {}, "all_equal"),
        (judged([1, 2], [1.0, 1.0]), {}, "all_equal"),
        (judged([1, 2], [0.5, 0.5]), {}, "all_equal"),
        (judged([1, 2], texts=["same", " same\n"]), {}, "identical"),
        (judged([1, 2], texts=["A cat.", "a  Cat"]), {}, "near_identical"),
        (judged([1, 2]), {"min_gap": 1.5}, "below_gap"),
        (judged([1, 2], [0.1, 0.2]), {}, "below_gap"),
        (judged([1, 2]), {"floor": 2.5}, "below_threshold"),
    ],
)
def test_a_prompt_without_pairs_names_its_reason(row, options, reason):
    assert allowed(row, **options) == ([], reason)


def test_a_verifier_may_tell_apart_what_differs_in_case_alone():
    row = judged([1, 2], [1.0, 0.0], texts=["DOG, CAT", "dog, cat"])
    assert allowed(row) == ([(0, 1)], "")


def test_scores_that_differ_by_the_gap_are_allowed_in_spite_of_rounding():
    # 0.6 - 0.4 is 0.19999999999999996 in floating point.
    assert allowed(judged([0, 0], [0.6, 0.4]), min_score_gap=0.2)[0] == [(0, 1)]


def ordered(row: JudgedPrompt, mode, seed=0):
    return pairing.order(row, allowed(row)[0], mode, random.Random(seed))


@given(st.lists(rewards, min_size=2, max_size=6))
def test_dpo_wants_the_best_against_the_worst(values):
    found = ordered(judged(values), "dpo")
    gaps = [values[chosen] - values[rejected] for chosen, rejected in found]
    assert gaps == sorted(gaps, reverse=True)
    if found:
        assert gaps[0] == max(values) - min(values)


def test_the_reward_orders_the_responses_inside_each_side():
    row = judged([5, 1, 9, 7], [1.0, 1.0, 0.5, 0.0])
    assert ordered(row, "dpo")[0] == (0, 3)
    assert {pair[0] for pair in ordered(row, "rpo")[:2]} == {0}


def test_where_none_passed_the_grade_goes_before_the_reward():
    row = judged([0, 5, 9], [0.75, 0.5, 0.0])
    assert ordered(row, "dpo") == [(0, 2), (1, 2), (0, 1)]
    assert ordered(row, "rpo")[0][0] == 0


@given(st.integers(0, 100))
def test_rpo_keeps_the_best_chosen_and_draws_the_rejected(seed):
    row = judged([0, 3, 1, 2])
    found = ordered(row, "rpo", seed)
    assert sorted(found) == sorted(allowed(row)[0])
    assert [chosen for chosen, _ in found] == [1, 1, 1, 3, 3, 2]


def test_rpo_reaches_every_lower_response():
    row = judged([0, 3, 1, 2])
    first = {ordered(row, "rpo", seed)[0] for seed in range(50)}
    assert first == {(1, 0), (1, 2), (1, 3)}


def test_a_pair_of_texts_is_taken_once():
    row = judged([2, 2, 1, 0], texts=["best", "best", "worse", "worse"])
    found = pairing.distinct(row, ordered(row, "dpo"), 9)
    texts = [(row.texts[c], row.texts[r]) for c, r in found]
    assert texts == [("best", "worse")]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: judged([1, float("nan")]), "finite"),
        (lambda: judged([1, 2], [0.5]), "2 responses"),
        (lambda: judged([1, 2], [0.5, 1.5]), r"1\.5"),
        (lambda: judged([1, 2], texts=["one"]), "1 responses"),
    ],
)
def test_rows_that_do_not_fit_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()

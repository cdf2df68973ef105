"""Properties of whole pair sets: truth, order, counts, statistics."""

import random
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemojax.data.records import Conversation
from nemojax.sdg import preferences


@dataclass(frozen=True)
class Question:
    family: str
    prompt: str


response = st.tuples(
    st.sampled_from(["a", "b", "c", "dd", " a"]),
    st.integers(-3, 3).map(float),
    st.sampled_from([None, 0.0, 0.5, 1.0]),
)
prompt = st.tuples(
    st.sampled_from(["math", "code", "chat"]), st.lists(response, max_size=5)
)


def build(prompts, *, seed=0, **options) -> preferences.PairSet:
    """Pairs of prompts [(family, [(text, reward, score)])]; "chat" has no verifier."""
    return preferences.build_pairs(
        [Question(family, f"prompt {i}") for i, (family, _) in enumerate(prompts)],
        [[text for text, _, _ in rows] for _, rows in prompts],
        [[reward for _, reward, _ in rows] for _, rows in prompts],
        [
            None if family == "chat" else [score for _, _, score in rows]
            for family, rows in prompts
        ],
        random.Random(seed),
        **options,
    )


@given(
    st.lists(prompt, max_size=8),
    st.sampled_from(["dpo", "rpo"]),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_every_pair_is_supported_by_its_judge(prompts, mode, count, seed):
    found = build(prompts, mode=mode, max_pairs_per_prompt=count, seed=seed)
    per_prompt = Counter(pair.prompt for pair in found.pairs)
    assert not per_prompt or max(per_prompt.values()) <= count
    assert len(set(found.pairs)) == len(found.pairs)
    for pair, family in zip(found.pairs, found.families, strict=True):
        index = int(pair.prompt.messages[-1].content.split()[1])
        assert prompts[index][0] == family
        rows = prompts[index][1]
        chosen = [s for t, r, s in rows if (t, r) == (pair.chosen, pair.chosen_reward)]
        rejected = [
            s for t, r, s in rows if (t, r) == (pair.rejected, pair.rejected_reward)
        ]
        assert pair.chosen.strip() != pair.rejected.strip()
        if family == "chat":
            assert pair.chosen_reward > pair.rejected_reward
        else:
            assert any(
                a is not None and b is not None and a > b
                for a in chosen
                for b in rejected
            )


@given(st.lists(prompt, max_size=8), st.integers(1, 4))
def test_every_prompt_is_counted_once(prompts, count):
    found = build(prompts, max_pairs_per_prompt=count)
    assert set(found.statistics) == {family for family, _ in prompts}
    for family, row in found.statistics.items():
        assert row.prompts == sum(name == family for name, _ in prompts)
        assert row.prompts == row.prompts_with_pairs + sum(row.rejected.values())
        assert row.pairs == found.families.count(family)
    assert len(found.pairs) == len(found.families)


def test_correct_is_chosen_against_the_reward_and_counted():
    found = build([("math", [("right", 1.0, 1.0), ("wrong", 5.0, 0.0)])])
    assert [(p.chosen, p.rejected) for p in found.pairs] == [("right", "wrong")]
    assert (found.pairs[0].chosen_reward, found.pairs[0].rejected_reward) == (1, 5)
    assert found.statistics["math"].disagreements == 1


def test_a_response_without_an_answer_is_neither_chosen_nor_rejected():
    rows = [("mumble", 9.0, None), ("right", 1.0, 1.0), ("wrong", 0.0, 0.0)]
    found = build([("math", rows)], max_pairs_per_prompt=9)
    assert [(p.chosen, p.rejected) for p in found.pairs] == [("right", "wrong")]


def test_booleans_are_scores():
    pairs = preferences.build_pairs(
        [Question("math", "1+1")],
        [["2", "3"]],
        np.array([[0.0, 1.0]]),
        [[True, False]],
        random.Random(0),
    ).pairs
    assert [(p.chosen, p.rejected) for p in pairs] == [("2", "3")]
    assert pairs[0].prompt == Conversation.of("1+1")


def test_a_quantile_sets_one_threshold_a_family_and_keeps_better_chosen():
    prompts = [
        ("chat", [("good", 4.0, None), ("fair", 2.0, None)]),
        ("chat", [("poor", 1.0, None), ("bad", 0.0, None)]),
    ]
    loose, strict = build(prompts), build(prompts, chosen_quantile=0.5)
    assert [p.chosen for p in loose.pairs] == ["good", "poor"]
    assert [p.chosen for p in strict.pairs] == ["good"]
    assert strict.statistics["chat"].chosen_threshold == 1.5
    assert strict.statistics["chat"].rejected == {"below_threshold": 1}


def test_a_threshold_never_applies_where_a_verifier_has_spoken():
    prompts = [("math", [("right", 0.0, 1.0), ("wrong", 9.0, 0.0)])]
    found = build(prompts, chosen_quantile=0.99, min_gap=100.0)
    assert [p.chosen for p in found.pairs] == ["right"]
    assert found.statistics["math"].chosen_threshold is None


def test_length_statistics_are_of_the_pairs():
    prompts = [
        ("math", [("x" * 30, 0.0, 1.0), ("y" * 10, 0.0, 0.0)]),
        ("math", [("x" * 10, 0.0, 1.0), ("y" * 30, 0.0, 0.0)]),
        ("math", [("x" * 80, 0.0, 1.0), ("y" * 40, 0.0, 0.0)]),
    ]
    row = build(prompts).statistics["math"]
    assert row.length_ratio == 120 / 80
    assert row.chosen_longer == 2 / 3


def test_the_same_stream_gives_the_same_pairs_and_another_one_others():
    rows = [(f"text {i}", float(i), None) for i in range(6)]
    prompts = [("chat", rows)] * 8
    first, again, other = (build(prompts, mode="rpo", seed=s) for s in (1, 1, 2))
    assert first == again
    assert first.pairs != other.pairs


def test_rpo_sees_small_and_large_differences_where_dpo_sees_the_largest():
    rows = [(f"text {i}", float(i), None) for i in range(6)]
    prompts = [("chat", rows)] * 40

    def gaps(mode):
        pairs = build(prompts, mode=mode).pairs
        return {p.chosen_reward - p.rejected_reward for p in pairs}

    assert gaps("dpo") == {5.0}
    assert gaps("rpo") == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_without_any_truth_the_reward_decides():
    found = preferences.build_pairs(
        [Question("chat", "hi")], [["a", "b"]], [[0.0, 1.0]], None, random.Random(0)
    )
    assert [(p.chosen, p.rejected) for p in found.pairs] == [("b", "a")]
    assert found.summary()["chat"]["pairs"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "ppo"}, "'ppo'"),
        ({"max_pairs_per_prompt": 0}, "max_pairs_per_prompt .* 0"),
        ({"min_gap": -1.0}, r"-1\.0"),
        ({"min_score_gap": float("nan")}, "nan"),
        ({"chosen_quantile": 1.0}, r"1\.0"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build([], **options)


def test_lists_that_are_not_parallel_are_refused():
    with pytest.raises(ValueError, match="1 items, 0 lists of responses"):
        preferences.build_pairs(
            [Question("chat", "hi")], [], [], None, random.Random(0)
        )

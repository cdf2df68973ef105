import dataclasses
import math

import pytest

from nemojax.data.records import Conversation, Message, PreferencePair
from nemojax.data.rows import formats
from nemojax.data.rows.preference_formats import FORMATS
from nemojax.io import fields, files

QUESTION = {"role": "user", "content": "q"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("good", "bad"))
TEMPLATE = "<extra_id_0>System\n\n<extra_id_1>User\nq\n<extra_id_1>Assistant\n"


def judge(response):
    return (
        "###Task Description:\nRate it.\n\n###The instruction to evaluate:\nq"
        f"\n\n###Response to evaluate:\n{response}\n\n###Score Rubrics:\n[Is it good?]"
    )


def sharegpt(speaker, text):
    return {"from": speaker, "value": text}


# Rows of each format; all say the same.
ROWS = [
    ("hh", {"chosen": "\n\nHuman: q\n\nAssistant: good",
            "rejected": "\n\nHuman: q\n\nAssistant: bad"}),
    ("sharegpt_ranking", {"conversations": [sharegpt("human", "q")],
                          "chosen": sharegpt("gpt", "good"),
                          "rejected": sharegpt("gpt", "bad")}),
    ("nemo_aligner", {"prompt": TEMPLATE,
                      "chosen_response": "good\n<extra_id_1>",
                      "rejected_response": "bad\n<extra_id_1>"}),
    ("nemo_aligner", {"prompt": [QUESTION],
                      "chosen_response": GOOD,
                      "rejected_response": BAD}),
    ("prompt_chosen_rejected", {"prompt": "q", "chosen": "good", "rejected": "bad"}),
    ("prompt_chosen_rejected", {"prompt": [QUESTION],
                                "chosen": [GOOD],
                                "rejected": [BAD]}),
    ("prompt_chosen_rejected", {"prompt": "q",
                                "chosen": [QUESTION, GOOD],
                                "rejected": [QUESTION, BAD]}),
    ("reward_bench", {"prompt": "q", "chosen": "good", "rejected": "bad",
                      "subset": "donotanswer", "id": 7}),
    ("nemo_rl", {"context": [QUESTION],
                 "completions": [{"rank": 1, "completion": [BAD]},
                                 {"rank": 0, "completion": [GOOD]}]}),
    ("helpsteer_preference", {"prompt": "q",
                              "response_1": "good", "response_2": "bad",
                              "preference_strength": -2}),
    ("helpsteer_preference", {"prompt": "q",
                              "response_1": "bad", "response_2": "good",
                              "preference_strength": 1}),
    ("helpsteer3", {"context": [QUESTION], "overall_preference": -3,
                    "response1": "good", "response2": "bad"}),
    ("helpsteer3", {"context": [QUESTION], "overall_preference": 1,
                    "response1": "bad", "response2": "good", "domain": "general"}),
    ("whole_dialogues", {"chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]}),
    ("alpaca_ranking", {"instruction": "", "input": "q",
                        "chosen": "good", "rejected": "bad"}),
    ("question_chosen_rejected", {"question": "q",
                                  "chosen": "good", "rejected": "bad"}),
    ("input_chosen_rejected", {"input": "q", "chosen": "good", "rejected": "bad"}),
    ("llmbar", {"input": "q", "output_1": "bad", "output_2": "good", "label": 2}),
    ("llmbar", {"input": "q", "output_1": "good", "output_2": "bad", "label": 1}),
    ("pandalm", {"instruction": "q", "input": "",
                 "response1": "bad", "response2": "good",
                 "annotator1": 2, "annotator2": 0, "annotator3": 2}),
    ("judge_prompts", {"chosen_instruction": judge("good"),
                       "rejected_instruction": judge("bad")}),
]  # fmt: skip


def row_of(name):
    return next(row for row_name, row in ROWS if row_name == name)


def parse(row):
    return next(entry for entry in FORMATS if entry.recognises(row)).parse(row)


def rejection(row):
    with pytest.raises(fields.Reject) as caught:
        parse(row)
    return caught.value.field, caught.value.reason


def test_every_format_has_a_row_here():
    assert {name for name, _ in ROWS} == {entry.name for entry in FORMATS}


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_all_formats_give_the_same_pair(name, row):
    assert formats.detect(row) == name
    pair = PreferencePair(Conversation.of("q"), "good", "bad")
    assert dataclasses.replace(parse(row), margin=None) == pair


def replaced(value, old, new):
    """`value` with the text `old` replaced, however deep it is."""
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, list):
        return [replaced(item, old, new) for item in value]
    if isinstance(value, dict):
        return {key: replaced(item, old, new) for key, item in value.items()}
    return value


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_identical_and_empty_responses_are_rejected_in_every_format(name, row):
    assert rejection(replaced(row, "bad", "good"))[1] == "identical responses"
    assert rejection(replaced(row, "bad", "good "))[1] == "identical responses"
    assert rejection(replaced(row, "bad", ""))[1] == "empty response"
    assert rejection(replaced(row, "good", " "))[1] == "empty response"


def test_hh_pairs_share_all_turns_but_the_last():
    start = "\n\nHuman: q\n\nAssistant: a\n\nHuman: more"
    row = {
        "chosen": start + "\n\nAssistant: good\n\nreally: good",
        "rejected": start + "\n\nAssistant: bad",
    }
    turns = (("user", "q"), ("assistant", "a"), ("user", "more"))
    prompt = Conversation(tuple(Message(role, text) for role, text in turns))
    assert parse(row) == PreferencePair(prompt, "good\n\nreally: good", "bad")


def test_pairs_with_different_prompts_are_rejected():
    assert rejection(
        {
            "chosen": "\n\nHuman: q\n\nAssistant: good",
            "rejected": "\n\nHuman: other\n\nAssistant: bad",
        }
    ) == ("rejected", "prompts differ")
    row = {"prompt": "q", "chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]}
    assert rejection(row | {"prompt": "other"}) == ("chosen", "prompts differ")


def test_hh_text_without_speakers_and_out_of_order_is_rejected():
    row = row_of("hh")
    assert rejection(row | {"rejected": "good"}) == ("rejected", "no dialogue")
    assert formats.detect(row | {"chosen": "good"}) is None
    assert rejection(row | {"rejected": "\n\nHuman: q"}) == (
        "rejected",
        "roles out of order",
    )


def test_rewards_are_read_where_given():
    row = row_of("nemo_aligner") | {"chosen_reward": 3, "rejected_reward": -0.5}
    pair = parse(row)
    assert (pair.chosen_reward, pair.rejected_reward) == (3.0, -0.5)


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"chosen_reward": float("nan")}, "chosen_reward", "reward not finite"),
        ({"rejected_reward": float("inf")}, "rejected_reward", "reward not finite"),
        ({"rejected_reward": 10**400}, "rejected_reward", "reward not finite"),
        ({"chosen_reward": "4"}, "chosen_reward", "wrong type"),
        ({"chosen_reward": True}, "chosen_reward", "wrong type"),
        ({"chosen_reward": None}, "chosen_reward", "missing field"),
    ],
)
def test_unusable_rewards_are_rejected(change, field, reason):
    row = row_of("nemo_aligner") | {"chosen_reward": 1.0, "rejected_reward": 0.0}
    assert rejection(row | change) == (field, reason)


VOTES = [
    ((1, 1, 2), "first"),
    ((2, 1, 2), "second"),
    ((0, 1, 1), "first"),
    ((2, 2, 2), "second"),
    ((0, 0, 1), "tie"),
    ((0, 1, 2), "tie"),
    ((1, 2, 0), "tie"),
    ((0, 0, 0), "tie"),
]


@pytest.mark.parametrize(("votes", "winner"), VOTES)
def test_pandalm_follows_the_majority_and_skips_ties(votes, winner):
    annotators = ("annotator1", "annotator2", "annotator3")
    row = row_of("pandalm") | {"response1": "first", "response2": "second"}
    row |= dict(zip(annotators, votes, strict=True))
    if winner == "tie":
        assert rejection(row)[1] == "tie"
    else:
        assert parse(row).chosen == winner


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("llmbar", {"label": 3}, "label out of range"),
        ("llmbar", {"label": "1"}, "wrong type"),
        ("llmbar", {"label": True}, "wrong type"),
        ("pandalm", {"annotator2": -1}, "label out of range"),
        ("pandalm", {"response1": True}, "wrong type"),
        ("sharegpt_ranking", {"chosen": 3}, "wrong type"),
        ("sharegpt_ranking", {"chosen": sharegpt("human", "x")}, "roles out of order"),
        ("sharegpt_ranking", {"conversations": []}, "roles out of order"),
        ("judge_prompts", {"rejected_instruction": "Rate it."}, "no judge prompt"),
        ("whole_dialogues", {"rejected": "bad"}, "wrong type"),
        ("prompt_chosen_rejected", {"chosen": [GOOD, BAD]}, "roles out of order"),
        ("prompt_chosen_rejected", {"chosen": []}, "empty response"),
        ("prompt_chosen_rejected", {"chosen": [QUESTION]}, "roles out of order"),
        ("reward_bench", {"chosen": ["good"]}, "wrong type"),
        ("reward_bench", {"prompt": " "}, "empty prompt"),
        ("nemo_rl", {"context": [GOOD]}, "roles out of order"),
        ("nemo_rl", {"context": "q"}, "wrong type"),
        ("nemo_rl", {"completions": [{"rank": 0}]}, "not two completions"),
        ("nemo_rl", {"completions": "good, bad"}, "wrong type"),
        ("nemo_rl", {"completions": [{"rank": 0}, {"rank": 1}]}, "missing field"),
        ("helpsteer_preference", {"preference_strength": 0}, "tie"),
        ("helpsteer_preference", {"preference_strength": 4}, "label out of range"),
        ("helpsteer_preference", {"preference_strength": None}, "wrong type"),
        ("helpsteer_preference", {"response_2": None}, "wrong type"),
    ],
)
def test_broken_rows_are_named_by_the_field(name, change, reason):
    field, found = rejection(row_of(name) | change)
    assert found == reason
    assert field.partition("[")[0] == next(iter(change))


def test_missing_fields_are_named():
    for name, field in [("llmbar", "label"), ("pandalm", "annotator3")]:
        row = {key: value for key, value in row_of(name).items() if key != field}
        assert rejection(row) == (field, "missing field")


def test_judge_prompts_keep_the_earlier_turns():
    row = replaced(
        row_of("judge_prompts"),
        "evaluate:\nq",
        "evaluate:\nq\n\nAssistant: a\n\nHuman: r",
    )
    roles = [message.role for message in parse(row).prompt.messages]
    assert roles == ["user", "assistant", "user"]


def completions(*ranks, **changes):
    """A row of NeMo-RL with a good and a bad completion of these ranks."""
    texts = zip(ranks, (GOOD, BAD, GOOD), strict=False)
    items = [{"rank": rank, "completion": [turn]} for rank, turn in texts]
    items[0] |= changes
    return {"context": [QUESTION], "completions": items}


def test_the_lower_rank_of_nemo_rl_is_better():
    assert parse(completions(1, 2)).chosen == "good"
    assert parse(completions(1, 0)).chosen == "bad"


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (completions(1, 1), "completions", "tie"),
        (completions(0, 1, 2), "completions", "not two completions"),
        (completions("0", 1), "completions[0].rank", "wrong type"),
        (completions(True, 0), "completions[0].rank", "wrong type"),
        (completions(0, 1, reward=1.0), "completions[1].reward", "missing field"),
        (
            completions(0, 1, reward=float("nan")),
            "completions[0].reward",
            "reward not finite",
        ),
        (
            completions(0, 1, completion=[GOOD, QUESTION, GOOD]),
            "completions[0].completion",
            "not one turn",
        ),
        (
            completions(0, 1, completion=[GOOD | {"role": "tool"}]),
            "completions[0].completion[0].role",
            "tool calls",
        ),
    ],
)
def test_broken_completions_are_named(row, field, reason):
    assert rejection(row) == (field, reason)


def test_rewards_come_from_every_place_where_they_may_be():
    rewards = {"chosen_reward": 2, "rejected_reward": 0.5}
    for name in ("nemo_aligner", "prompt_chosen_rejected", "whole_dialogues"):
        pair = parse(row_of(name) | rewards)
        assert (pair.chosen_reward, pair.rejected_reward) == (2.0, 0.5)
    row = completions(1, 0, reward=0.5)
    row["completions"][1]["reward"] = 2
    pair = parse(row)
    assert (pair.chosen, pair.chosen_reward, pair.rejected_reward) == ("bad", 2.0, 0.5)


def test_ties_are_skipped_rather_than_broken():
    row = files.Row(row_of("helpsteer_preference"), "rows.jsonl", 1)
    assert not row.reject("preference_strength", "tie").malformed


@pytest.mark.parametrize(
    "name", ["prompt_chosen_rejected", "nemo_aligner", "whole_dialogues", "nemo_rl"]
)
def test_a_margin_is_kept_beside_its_pair(name):
    row = row_of(name)
    for margin in (1.5, 0, None):
        assert parse(row | {"margin": margin}).margin == margin
    assert parse(row).margin is None
    for margin, reason in (
        ("much", "wrong type"),
        (math.nan, "margin not finite"),
        (-1, "margin below 0"),
    ):
        assert rejection(row | {"margin": margin}) == ("margin", reason)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("helpsteer_preference", "preference_strength"),
        ("helpsteer3", "overall_preference"),
    ],
)
def test_the_strength_of_a_preference_is_its_margin(name, field):
    for strength in (-3, -2, -1, 1, 2, 3):
        assert parse(row_of(name) | {field: strength}).margin == abs(strength)
    assert rejection(row_of(name) | {field: 0}) == (field, "tie")
    assert rejection(row_of(name) | {field: 4}) == (field, "label out of range")


def test_whole_dialogues_may_have_the_text_of_a_user_turn_beside_them():
    """As open-instruct writes them, with a system message or several turns."""
    start = [{"role": "system", "content": "s"}, QUESTION, GOOD, QUESTION]
    row = {"chosen": [*start, GOOD], "rejected": [*start, BAD]}
    expected = parse(row)
    assert [turn.role for turn in expected.prompt.messages] == [
        "system",
        "user",
        "assistant",
        "user",
    ]
    for prompt in ("q", "", None):
        assert formats.detect(row | {"prompt": prompt}) == "prompt_chosen_rejected"
        assert parse(row | {"prompt": prompt}) == expected
    assert rejection(row | {"prompt": "good"}) == ("chosen", "prompts differ")


def test_markers_in_the_texts_of_reward_bench_make_no_turns():
    text = "q\n<extra_id_1>Assistant\nx\n<extra_id_1>User\ny"
    assert parse(row_of("reward_bench") | {"prompt": text}).prompt == (
        Conversation.of(text)
    )


def test_helpsteer_comparisons_may_hold_several_turns():
    text = "q\n<extra_id_1>Assistant\nx\n<extra_id_1>User\ny"
    prompt = parse(row_of("helpsteer_preference") | {"prompt": text}).prompt
    assert [turn.content for turn in prompt.messages] == ["q", "x", "y"]

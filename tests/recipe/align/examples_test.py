"""Rows of files as examples: what is kept, what is left out, and why."""

import functools
import json

import numpy as np
import pytest

from nemojax.data.batching import examples
from nemojax.io.files import DataError
from nemojax.recipe.align.data_files import DataFiles
from nemojax.recipe.align.settings import OBJECTIVES, REGRESSION, SFT
from tests.recipe.align import toy

PAIR = {"prompt": "red", "chosen": "red", "rejected": "tin"}


def read(tmp_path, rows, encode, values=3, length=toy.LENGTH, **options):
    path = toy.write(tmp_path / "rows.jsonl", rows)
    return examples.read([path], encode, length=length, values=values, **options)


@pytest.fixture(scope="module")
def pair(model):
    """(options) -> encodes preference pairs."""
    return lambda **options: examples.preferences(
        model.tokenizer, model.template, **options
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_row_is_an_example_in_its_place(tmp_path, model, objective):
    found = toy.read(tmp_path / "rows.jsonl", objective, model)
    assert len(found) == len(found.prompts) == len(found.values) == 60
    assert found.counts == {"rows": 60, "examples": 60}
    assert list(found.detected) == [str(tmp_path / "rows.jsonl")]
    tokens, mask = found.groups[7][0]
    assert len(tokens) == len(mask) and not mask[0]
    assert mask.any() == (objective in (SFT, "preference"))


def test_labels_keep_their_gaps(tmp_path, model):
    found = toy.read(tmp_path / "rows.jsonl", REGRESSION, model)
    assert (found.values[:, 2] == -100).all() and (found.values[:, 3] >= 0).all()


def test_what_is_left_out_is_counted_by_reason(tmp_path, pair):
    rows = [
        PAIR,
        PAIR | {"rejected": "red"},
        PAIR | {"chosen": " "},
        PAIR | {"chosen_reward": 1.0},
        PAIR | {"chosen_reward": float("inf"), "rejected_reward": 0.0},
        PAIR | {"chosen": "red " * 99},
        PAIR | {"prompt": [{"role": "assistant", "content": "red"}]},
        *[PAIR | {"prompt": str(number)} for number in range(9)],
    ]
    found = read(tmp_path, rows, pair(), max_bad_fraction=0.5)
    assert found.counts["rows"] == 16 and found.counts["examples"] == 10
    assert sum(found.counts.values()) == 2 * 16
    reasons = {bad.row: bad.reason for bad in found.quarantine.rows}
    assert reasons[2] == "identical responses" and reasons[3] == "empty response"
    assert reasons[4] == "missing field" and reasons[6] == "longer than the limit"
    assert set(reasons) == {2, 3, 4, 5, 6, 7}


def test_too_many_malformed_rows_stop_the_run_long_ones_do_not(tmp_path, pair):
    long = PAIR | {"chosen": "red " * 99}
    assert len(read(tmp_path, [PAIR, long, long], pair())) == 1
    with pytest.raises(DataError, match="1 of 2 rows are malformed"):
        read(tmp_path, [PAIR, PAIR | {"chosen": ""}], pair())


def test_rpo_says_which_flags_give_default_rewards(tmp_path, pair):
    with pytest.raises(DataError, match=r"row 1: .*--default_chosen_reward"):
        read(tmp_path, [PAIR], pair(needs_rewards=True))
    found = read(tmp_path, [PAIR], pair(needs_rewards=True, default_rewards=(1.0, 0.0)))
    np.testing.assert_array_equal(found.values[:, :2], [[1, 0]])


def test_pairs_are_filtered_by_the_reward_of_the_chosen(tmp_path, pair):
    rewards = [(0.5, 0.0), (2.0, 1.0), (1.0, 3.0)]
    rows = [PAIR | {"chosen_reward": c, "rejected_reward": r} for c, r in rewards]
    found = read(tmp_path, rows, pair(min_chosen_reward=1.0))
    np.testing.assert_array_equal(found.values[:, :2], rewards[1:])
    assert found.counts["chosen response below the reward threshold"] == 1
    with pytest.raises(DataError, match="row 1: no reward, which --min_chosen_reward"):
        read(tmp_path, [PAIR], pair(min_chosen_reward=1.0))


def test_scores_stand_for_rewards_and_a_pair_without_is_left_out(tmp_path, pair):
    path = str(tmp_path / "rows.jsonl")
    rows = [PAIR | {"chosen_reward": 9.0, "rejected_reward": 9.0}, PAIR, PAIR]
    scores = {(path, 1): (1.5, 0.5), (path, 3): (0.0, 2.0), ("other", 2): (7.0, 7.0)}
    found = read(tmp_path, rows, pair(needs_rewards=True), rewards=scores)
    np.testing.assert_array_equal(found.values[:, :2], [[1.5, 0.5], [0.0, 2.0]])
    assert found.counts["not among the scores"] == 1


def test_a_pair_has_its_rewards_and_its_margin_or_nan(tmp_path, pair):
    rows = [PAIR | {"chosen_reward": 2, "rejected_reward": 1, "margin": 3}, PAIR]
    found = read(tmp_path, rows, pair())
    np.testing.assert_array_equal(found.values, [[2, 1, 3], [np.nan] * 3])


def test_margins_are_values_of_pairs_where_they_are_wanted(tmp_path, model):
    rows = [PAIR | {"margin": 2}, PAIR | {"margin": 0.5}, PAIR]
    encode = functools.partial(examples.compared, model.tokenizer, model.template)
    found = read(tmp_path, rows[:2], encode(needs_margin=True), 1)
    np.testing.assert_array_equal(found.values, [[2], [0.5]])
    np.testing.assert_array_equal(read(tmp_path, rows, encode(), 1).values, [[0]] * 3)
    with pytest.raises(DataError, match=r"row 3: no margin, .* say --pairwise=plain"):
        read(tmp_path, rows, encode(needs_margin=True), 1)


def test_another_kind_of_rows_is_named(tmp_path, model):
    encode = examples.demonstrations(model.tokenizer, model.template)
    with pytest.raises(DataError, match="holds preference pairs, this stage takes con"):
        read(tmp_path, [PAIR], encode)


def test_a_row_without_a_target_is_an_error_that_names_it(tmp_path, model):
    class NoTargets:
        """A template that masks everything."""

        def encode(self, tokenizer, conversation):
            tokens, mask = model.template.encode(tokenizer, conversation)
            return tokens, [0] * len(mask)

    encode = examples.demonstrations(model.tokenizer, NoTargets())
    with pytest.raises(DataError, match=r"rows.jsonl, row 1: no token to train on"):
        read(tmp_path, toy.demonstrations(3), encode, 0)


def test_no_row_at_all_is_an_error(tmp_path, pair):
    with pytest.raises(DataError, match="no row can be trained on: longer than the li"):
        read(tmp_path, [PAIR], pair(), length=4)


def test_replayed_rows_are_the_share_of_all(tmp_path, model):
    general = toy.read(tmp_path / "general.jsonl", SFT, model, 98)
    code = toy.read(tmp_path / "code.jsonl", SFT, model, 60)
    found = general.with_share(code, 0.02, seed=0)
    assert len(found) == 100 and found.counts["replayed"] == 2
    assert found.groups[:98] == general.groups
    assert all(any(group is one for one in code.groups) for group in found.groups[98:])
    assert found.fingerprint != general.fingerprint


def test_a_prompt_is_on_one_side_of_the_split(tmp_path, model):
    found = toy.read(tmp_path / "rows.jsonl", REGRESSION, model, 200)
    train, held = examples.split(found, 0.2)
    assert len(train) + len(held) == 200 and len(held) > 20
    assert not set(train.prompts) & set(held.prompts)
    assert train.counts["examples"] == len(train)


def test_the_fingerprint_knows_tokens_targets_values_and_order(tmp_path, pair):
    rows = [PAIR | {"chosen_reward": 1.0, "rejected_reward": 0.0}, PAIR]
    whole = read(tmp_path, rows, pair()).fingerprint
    other = json.loads(json.dumps(rows))
    other[0]["rejected_reward"] = 0.5
    for changed in (rows[::-1], rows[:1], other):
        assert read(tmp_path, changed, pair()).fingerprint != whole
    assert read(tmp_path, rows, pair()).fingerprint == whole


def test_rows_of_all_files_that_cannot_be_used_are_kept(tmp_path, model):
    good = toy.demonstrations(40)
    bad = [*good, {"prompt": "red", "response": ""}]
    paths = {
        name: str(toy.write(tmp_path / f"{name}.jsonl", bad))
        for name in ("train", "held", "code")
    }
    data = DataFiles([paths["train"]], [paths["held"]], 0.0, [paths["code"]], 0.5)
    encode = examples.demonstrations(model.tokenizer, model.template)
    train, held = data.read(encode, toy.settings(SFT), 0)
    assert held is not None and len(held) == 40 and len(train) == 80
    found = [(row.file, row.row) for row in train.quarantine.rows]
    assert found == [(paths[name], 41) for name in ("train", "held", "code")]

import pytest

from nemojax import losses
from nemojax.data.records import ATTRIBUTES, UNTRAINED, attribute_names
from nemojax.inference.scoring import pair_rewards
from nemojax.io import quarantine
from nemojax.io.files import DataError
from nemojax.io.parts import Parts
from nemojax.io.workdir import WorkdirError

WEIGHTS = losses.ATTRIBUTE_WEIGHTS["nemotron4_340b"]


def write(folder, rows):
    rejects = quarantine.Quarantine()
    rejects.add(quarantine.BadRow("a.jsonl", 2, "", "tie"))
    Parts(folder).write(rows, rejects, {})


def pair(row, chosen, rejected):
    sides = {"chosen": {"rewards": chosen}, "rejected": {"rewards": rejected}}
    return {"file": "a.jsonl", "row": row} | sides


def test_five_attributes_are_weighed_and_one_is_the_reward(tmp_path):
    five = dict(zip(ATTRIBUTES, (4.0, 3.0, 2.0, 1.0, 0.0), strict=True))
    nine = dict.fromkeys(UNTRAINED, 9.0) | five
    assert set(attribute_names(9)) == set(nine)
    write(tmp_path, [pair(1, five, nine)])
    write(tmp_path, [pair(7, {"attribute_0": 2.5}, {"attribute_0": -1.0})])
    found = pair_rewards.read(tmp_path, WEIGHTS)
    expected = sum(w * v for w, v in zip(WEIGHTS, five.values(), strict=True))
    assert found["a.jsonl", 1] == pytest.approx((expected, expected))
    assert found["a.jsonl", 7] == (2.5, -1.0) and len(found) == 2


def test_weights_have_names_or_are_numbers():
    assert pair_rewards.weights_of("llama3_70b") == (0.65, 0.8, 0.45, 0.55, -0.4)
    assert pair_rewards.weights_of("1,0,0,0,-0.5") == (1, 0, 0, 0, -0.5)
    for text in ("1,2", "a,b,c,d,e", "other"):
        with pytest.raises(DataError, match="say nemotron4_340b, llama3_70b, or a num"):
            pair_rewards.weights_of(text)


def test_what_is_no_score_of_a_pair_is_named(tmp_path):
    with pytest.raises(DataError, match="no scores"):
        pair_rewards.read(tmp_path, WEIGHTS)
    write(tmp_path, [{"file": "a", "row": 1, "rewards": {"helpfulness": 1.0}}])
    with pytest.raises(DataError, match="row 1: no rewards of a pair"):
        pair_rewards.read(tmp_path, WEIGHTS)


def test_scores_that_were_changed_or_are_missing_are_not_taken(tmp_path):
    for row in (1, 2):
        write(tmp_path, [pair(row, {"attribute_0": 2.5}, {"attribute_0": -1.0})])
    path = tmp_path / "part-00001.jsonl"
    path.write_text(path.read_text().replace("2.5", "3.5"))
    with pytest.raises(WorkdirError, match=r"00001.jsonl: its bytes have changed"):
        pair_rewards.read(tmp_path, WEIGHTS)
    path.unlink()
    with pytest.raises(DataError, match=r"00001.json: its rows are missing"):
        pair_rewards.read(tmp_path, WEIGHTS)

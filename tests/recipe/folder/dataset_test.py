"""Rows of a folder: none is lost unseen, and no prompt is on both sides."""

import pytest

from nemojax.data.held_out import is_held_out
from nemojax.data.records import Conversation, Message
from nemojax.io.files import DataError
from nemojax.recipe.folder import dataset as reading
from tests.recipe.folder import real_folder

SETS = ("code_sft", "general_sft", "preferences", "reward_pairs")


@pytest.fixture
def folder(tmp_path):
    return real_folder.write(tmp_path / "data")


def prompts(rows) -> set[str]:
    return {getattr(row, "prompt", row).opening for row in rows}


def test_every_row_is_used_or_counted(folder):
    dataset = reading.read(folder, real_folder.settings(max_rows_per_file=10))
    for name in SETS:
        split = getattr(dataset, name)
        left_out = {k: v for k, v in split.counts.items() if k != "rows"}
        kept = len(split.train) + len(split.held_out)
        assert kept + sum(left_out.values()) == split.counts["rows"], name
    assert dataset.preferences.counts["quarantined"] == 1
    assert dataset.quarantine.counts == {"identical responses": 1}
    assert dataset.general_sft.counts["over_the_cap"] > 0


def test_held_out_prompts_are_trained_on_nowhere(folder):
    """Also where fine-tuning rows ask what preference pairs hold out."""
    asked = [
        {"prompt": f"What is {i}?", "response": f"{i} is a number."} for i in range(20)
    ]
    real_folder.lines(folder / "sft/asked.jsonl", asked)
    dataset = reading.read(folder, real_folder.settings(held_out_share=0.1))
    trained, held_out = set(), set()
    for name in SETS:
        trained |= prompts(getattr(dataset, name).train)
        held_out |= prompts(getattr(dataset, name).held_out)
    assert held_out
    assert not trained & held_out
    assert dataset.general_sft.counts["held_out_prompt"] > 0


def test_split_depends_on_the_first_turn_alone():
    one = Conversation.of("the same question")
    other = Conversation(
        (
            Message("system", "be kind"),
            Message("user", "the same question\n"),
            Message("assistant", "an answer"),
            Message("user", "another question"),
        )
    )
    shares = [i / 50 for i in range(51)]
    sides = [is_held_out(one.opening, share) for share in shares]
    assert sides == [is_held_out(other.opening, share) for share in shares]
    assert sides == sorted(sides)  # a smaller share is a part of a larger one
    assert (sides[0], sides[-1]) == (False, True)


def test_held_out_share_is_about_the_share_asked_for():
    rows = [Conversation.of(f"question {i}") for i in range(4000)]
    found = sum(is_held_out(row.opening, 0.25) for row in rows)
    assert 900 < found < 1100


def test_changed_data_has_another_fingerprint(folder):
    settings = real_folder.settings()
    before = reading.read(folder, settings).data_files
    assert reading.read(folder, settings).data_files == before
    assert "pretrain/dev-code.jsonl" in before
    path = folder / "math/gsm8k_train.jsonl.gz"
    real_folder.lines(path, [{"question": "One?", "answer": "1"}])
    after = reading.read(folder, settings).data_files
    assert [name for name in before if before[name] != after[name]] == [
        "math/gsm8k_train.jsonl.gz"
    ]


def test_too_many_malformed_rows_of_one_kind_stop_the_run(folder):
    """Though they are few among all rows of the folder."""
    path = folder / "code/mbpp_train.jsonl"
    path.write_text(path.read_text() + "{broken\n" * 3)
    with pytest.raises(DataError, match=r"mbpp_train\.jsonl, row 9.*not JSON"):
        reading.read(folder, real_folder.settings())
    reading.read(folder, real_folder.settings(max_malformed_share=0.1))


def test_kind_without_a_usable_row_names_its_files(folder):
    real_folder.lines(folder / "pretrain/dev-code.jsonl", [])
    with pytest.raises(DataError, match=r"dev-code\.jsonl"):
        reading.read(folder, real_folder.settings(max_malformed_share=1.0))


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(4, 9, [0, 1, 2, 3]), (9, 3, [0, 3, 6]), (3, 0, []), (0, 3, [])],
)
def test_spread_takes_rows_from_all_over(count, most, expected):
    assert reading.spread(list(range(count)), most) == expected

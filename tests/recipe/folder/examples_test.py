"""Rows as tokens: the blend's shares, and what happens to what is too long."""

import numpy as np
import pytest

from nemojax.data.pretraining import corpus
from nemojax.data.records import Conversation, Message, PreferencePair
from nemojax.io.files import DataError
from nemojax.recipe.folder import examples
from nemojax.recipe.folder import material as reading
from tests.recipe.folder import real_folder

SETTINGS = real_folder.settings()


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = real_folder.write(tmp_path_factory.mktemp("data"))
    return reading.read(folder, SETTINGS)


@pytest.fixture(scope="module")
def tokenizer(material):
    return examples.train_tokenizer(SETTINGS, material)


def dialogue(*texts: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(
        tuple(Message(roles[i % 2], text) for i, text in enumerate(texts))
    )


def test_pretraining_rows_follow_the_blend(material, tokenizer):
    settings = real_folder.settings(pretrain_tokens=60_000)
    rows, counts = examples.pretraining_rows(settings, material, tokenizer)
    assert rows.shape == (60_000 // settings.length, settings.length)
    total = sum(counts.values())
    for name, share in corpus.BLEND.items():
        assert counts[name] / total == pytest.approx(share, abs=0.02)


def test_pretraining_rows_are_a_function_of_the_seed(material, tokenizer):
    rows = [
        examples.pretraining_rows(real_folder.settings(seed=seed), material, tokenizer)[
            0
        ]
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (rows[0] != rows[2]).any()


def test_too_little_text_for_the_vocabulary_is_bad_data(material):
    settings = real_folder.settings(vocab_size=50_000)
    with pytest.raises(DataError, match="add more text"):
        examples.train_tokenizer(settings, material)


def test_demonstrations_fit_or_are_counted(material, tokenizer):
    fitted = examples.fit(SETTINGS, material, tokenizer)
    for name in examples.SFT_SETS:
        rows = fitted.demonstrations[name]
        counts = fitted.counts[name]
        assert all(len(tokens) <= SETTINGS.length for tokens, _ in rows)
        assert counts["trained"] == len(rows)
        own = len(rows) - counts.get("from_code_stage", 0)
        assert own + counts["too_long"] == len(getattr(material, name).train)
    assert fitted.counts["code_sft"]["too_long"] == 1


def test_general_stage_gets_its_share_of_code_rows(material, tokenizer):
    settings = real_folder.settings(code_share=0.25)
    fitted = examples.fit(settings, material, tokenizer)
    code, general = (fitted.demonstrations[name] for name in examples.SFT_SETS)
    count = fitted.counts["general_sft"]["from_code_stage"]
    assert count == int(0.25 * (len(general) - count)) > 0
    assert all(row in code for row in general[-count:])


def test_long_dialogues_lose_their_oldest_turns_only(tokenizer):
    prompt = dialogue(real_folder.LONG, "yes", "And now?", "well", "Now?")
    pair = PreferencePair(prompt, "Now it is.", "No.")
    kept, counts = examples.fitting_pairs(tokenizer, [pair], 96, 96)
    assert kept == [
        PreferencePair(dialogue("And now?", "well", "Now?"), "Now it is.", "No.")
    ]
    assert counts == {"shortened": 1, "too_long": 0}


def test_long_pair_is_shortened_but_only_an_overlong_one_is_left_out(tokenizer):
    prompt = dialogue("Who?", "You.", "And now, after all that has been said?")
    pair = PreferencePair(prompt, "Now it is.", "No.")
    for long_pair, length, expected in (
        (90, 90, (3, 0)),  # it fits as it is
        (5, 90, (1, 0)),  # the last turn stays, though it is long
        (5, 5, (0, 1)),
    ):
        kept, counts = examples.fitting_pairs(tokenizer, [pair], length, long_pair)
        turns = sum(len(pair.prompt.messages) for pair in kept)
        assert (turns, counts["too_long"]) == expected
        assert counts["shortened"] == (turns == 1)


def test_system_message_outlives_the_oldest_turns(tokenizer):
    turns = dialogue(real_folder.LONG, "yes", "Now?").messages
    prompt = Conversation((Message("system", "Be brief."), *turns))
    pair = PreferencePair(prompt, "Yes.", "No.")
    (kept,), _ = examples.fitting_pairs(tokenizer, [pair], 96, 96)
    assert [message.content for message in kept.prompt.messages] == [
        "Be brief.",
        "Now?",
    ]


def test_pair_with_a_response_too_long_is_counted_out(tokenizer):
    pairs = [
        PreferencePair(dialogue("Why?"), "Because.", real_folder.LONG),
        PreferencePair(dialogue("Why?"), "Because.", "No."),
    ]
    kept, counts = examples.fitting_pairs(tokenizer, pairs, 96, 96)
    assert kept == pairs[1:]
    assert counts == {"shortened": 0, "too_long": 1}


def test_stage_without_a_row_that_fits_is_bad_data(material, tokenizer):
    settings = real_folder.settings(length=16)
    with pytest.raises(DataError, match=r"none fits 16 tokens"):
        examples.fit(settings, material, tokenizer)

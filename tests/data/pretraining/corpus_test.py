import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemojax.data.pretraining import corpus
from nemojax.data.pretraining.corpus import Document
from nemojax.io import files

LAYOUT = {
    "pretrain": [
        "english-0.jsonl.gz",
        "english-1.jsonl.gz",
        "multilingual-0.jsonl.gz",
        "code-0.jsonl.gz",
        "dev-english.jsonl.gz",
        "dev-multilingual.jsonl.gz",
        "dev-code.jsonl.gz",
    ],
    "sft": ["code_alpaca_2k.json.gz", "alpaca_en.json.gz", "chat.jsonl.gz"],
    "code": ["mbpp_train.jsonl.gz", "mbpp_validation.jsonl.gz"],
    "math": ["gsm8k_train.jsonl.gz", "gsm8k_dev.jsonl.gz"],
    "preference": ["hh_a.jsonl.gz", "dpo_en.json.gz", "judged.json"],
    "reward": ["nemo_regression.jsonl", "helpsteer2.jsonl.gz", "other.jsonl"],
}


@pytest.fixture
def folder(tmp_path):
    """A data folder with all the files of `LAYOUT`, and some that are no data."""
    for name, inside in LAYOUT.items():
        (tmp_path / name).mkdir()
        for file in [*inside, "english-notes.txt", "hh_notes.md"]:
            (tmp_path / name / file).touch()
    return tmp_path


def names(paths):
    return [f"{path.parent.name}/{path.name}" for path in paths]


def test_find_corpus_keeps_training_and_validation_apart(folder):
    found = corpus.find_corpus(folder)
    assert {name: names(paths) for name, paths in found.training.items()} == {
        "english": ["pretrain/english-0.jsonl.gz", "pretrain/english-1.jsonl.gz"],
        "multilingual": ["pretrain/multilingual-0.jsonl.gz"],
        "code": ["pretrain/code-0.jsonl.gz"],
    }
    assert {name: names(paths) for name, paths in found.validation.items()} == {
        name: [f"pretrain/dev-{name}.jsonl.gz"] for name in corpus.TEXT_CLASSES
    }


def test_each_file_serves_one_stage(folder):
    found = corpus.find_recipe_data(folder)
    assert found.corpus == corpus.find_corpus(folder)
    assert names(found.code_sft) == [
        "sft/code_alpaca_2k.json.gz",
        "code/mbpp_train.jsonl.gz",
    ]
    assert names(found.general_sft) == [
        "sft/alpaca_en.json.gz",
        "sft/chat.jsonl.gz",
        "math/gsm8k_train.jsonl.gz",
    ]
    assert names(found.preferences) == [
        "preference/hh_a.jsonl.gz",
        "preference/dpo_en.json.gz",
    ]
    assert names(found.reward_pairs) == ["preference/judged.json"]
    assert names(found.reward_attributes) == [
        "reward/nemo_regression.jsonl",
        "reward/helpsteer2.jsonl.gz",
    ]


def test_all_that_is_missing_is_named_at_once(folder):
    (folder / "pretrain" / "code-0.jsonl.gz").unlink()
    (folder / "pretrain" / "dev-english.jsonl.gz").unlink()
    (folder / "preference" / "judged.json").unlink()
    with pytest.raises(files.DataError) as caught:
        corpus.find_recipe_data(folder)
    message = str(caught.value)
    assert str(folder) in message
    missing = "pretrain/code-*, pretrain/dev-english*, preference/* (for reward pairs)"
    assert f"no data file matches {missing};" in message
    with pytest.raises(files.DataError, match=r"matches pretrain/code-\*, pretrain/d"):
        corpus.find_corpus(folder)


def test_only_the_classes_that_are_needed_must_have_text(tmp_path):
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "code-0.jsonl").touch()
    for needed in (["code"], []):
        found = corpus.find_corpus(tmp_path, needed=needed)
        assert [bool(found.training[name]) for name in corpus.TEXT_CLASSES] == [0, 0, 1]
    with pytest.raises(files.DataError, match=r"matches pretrain/english-\*; exp"):
        corpus.find_corpus(tmp_path, needed=["english", "code"])


@pytest.mark.parametrize("find", [corpus.find_corpus, corpus.find_recipe_data])
def test_a_missing_folder_is_named(tmp_path, find):
    with pytest.raises(files.DataError, match="absent: no such folder"):
        find(tmp_path / "absent")


def test_documents_carry_their_class_and_bad_rows_are_named(tmp_path):
    rows = [
        {"text": "one", "source": "here", "language": "en", "licence": "MIT"},
        {"text": " "},
        {"source": "there"},
        {"text": "two", "source": None},
        {"text": "three", "language": 3},
        7,
    ]
    path = tmp_path / "english-0.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    quarantine = files.Quarantine()
    assert list(corpus.read_documents(path, "english", quarantine)) == [
        Document("one", "here", "en", "english"),
        Document("two", "", "", "english"),
    ]
    assert [(bad.row, bad.field, bad.reason) for bad in quarantine.rows] == [
        (2, "text", "empty text"),
        (3, "text", "missing field"),
        (5, "language", "wrong type"),
        (6, "", "not an object"),
    ]


def test_an_unknown_class_is_named():
    with pytest.raises(ValueError, match="'latin'"):
        next(corpus.read_documents("x.jsonl", "latin", files.Quarantine()))


@given(st.text())
def test_utf8_bytes_counts_one_to_four_bytes_a_character(text):
    limits = (0x80, 0x800, 0x10000)
    expected = sum(1 + sum(ord(char) >= limit for limit in limits) for char in text)
    assert corpus.utf8_bytes(text) == expected


def documents(text_class, lengths):
    return [
        Document("é" * (length // 2) + "x" * (length % 2), str(i), "", text_class)
        for i, length in enumerate(lengths)
    ]


def blend(by_class, weights=corpus.BLEND, seed=0, total_bytes=20_000):
    rng = np.random.default_rng(seed)
    return list(corpus.sample_blend(by_class, weights, rng, total_bytes))


BY_CLASS = {
    "english": documents("english", range(50, 150)),
    "multilingual": documents("multilingual", range(20, 60)),
    "code": documents("code", [7, 200, 30]),
}


def test_every_prefix_keeps_the_blend_to_within_a_document():
    """The shares of the bytes, not of the documents, follow 70 / 15 / 15."""
    given_bytes = dict.fromkeys(BY_CLASS, 0)
    for document in blend(BY_CLASS):
        given_bytes[document.text_class] += corpus.utf8_bytes(document.text)
        total = sum(given_bytes.values())
        for name, share in corpus.BLEND.items():
            assert abs(given_bytes[name] - share * total) <= 200
    assert 20_000 <= sum(given_bytes.values()) < 20_000 + 200


@given(
    lengths=st.dictionaries(
        st.sampled_from(corpus.TEXT_CLASSES),
        st.lists(st.integers(1, 99), min_size=1, max_size=9),
        min_size=1,
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_documents_repeat_only_after_all_of_their_class(lengths, seed):
    by_class = {name: documents(name, values) for name, values in lengths.items()}
    order = blend(by_class, dict.fromkeys(by_class, 1.0), seed, total_bytes=3_000)
    for name, expected in by_class.items():
        drawn = [document for document in order if document.text_class == name]
        for start in range(0, len(drawn) - len(expected) + 1, len(expected)):
            epoch = drawn[start : start + len(expected)]
            assert sorted(epoch, key=expected.index) == expected


def test_the_order_is_a_function_of_the_seed():
    assert blend(BY_CLASS, seed=3) == blend(BY_CLASS, seed=3)
    assert blend(BY_CLASS, seed=3) != blend(BY_CLASS, seed=4)


def test_weights_have_any_scale_and_zero_leaves_a_class_out():
    weights = {"english": 14, "multilingual": 3, "code": 3}
    assert blend(BY_CLASS, weights) == blend(BY_CLASS)
    order = blend(BY_CLASS, {"english": 0, "code": 1, "absent": 0})
    assert {document.text_class for document in order} == {"code"}


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ({"english": -1, "code": 2}, "need to be positive"),
        ({"english": 0}, "need to be positive"),
        ({}, "need to be positive"),
        ({"latin": 1}, "no documents of class 'latin'"),
    ],
)
def test_impossible_blends_are_refused(weights, problem):
    with pytest.raises(ValueError, match=problem):
        blend(BY_CLASS, weights)

"""Figures that real data of public sources must give, where a copy is at hand.

The folder is named by NEMOJAX_DATA, or is `shared/data` beside the repository.
"""

import os
import pathlib
import re

import numpy as np
import pytest

from nemojax.data.pretraining import corpus
from nemojax.data.records import AttributeLabels, Conversation, PreferencePair
from nemojax.data.rows import conversion, formats, writers
from nemojax.io import files

FOLDER = pathlib.Path(
    os.environ.get("NEMOJAX_DATA")
    or pathlib.Path(__file__).parents[4] / "shared" / "data"
)
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="needs real data, see NEMOJAX_DATA"
)

# File: format, rows, and the reasons of the rows that give no record.
CONVERSATIONS = {
    "code/mbpp_prompt.jsonl": ("mbpp", 10, {}),
    "code/mbpp_train.jsonl.gz": ("mbpp", 374, {}),
    "code/mbpp_validation.jsonl.gz": ("mbpp", 90, {}),
    "math/gsm8k_dev.jsonl.gz": ("gsm8k", 500, {}),
    "math/gsm8k_train.jsonl.gz": ("gsm8k", 6973, {}),
    "math/math_dev.jsonl.gz": ("math", 2500, {}),
    "sft/alpaca_en_demo.json.gz": ("alpaca", 999, {}),
    "sft/alpaca_zh_demo.json.gz": ("alpaca", 1000, {}),
    "sft/code_alpaca_2k.json.gz": ("alpaca", 2017, {"empty response": 2}),
    "sft/dolly_hhrlhf_train_small.jsonl.gz": ("prompt_response", 1000, {}),
    "sft/glaive_toolcall_en_demo.json.gz": ("sharegpt", 300, {"tool calls": 191}),
    "sft/identity.json.gz": ("alpaca", 91, {}),
    "sft/nemo_aligner_chat_sft.jsonl.gz": ("nemo_chat", 30, {}),
    "sft/openmathinstruct2_sample.jsonl.gz": ("openmathinstruct", 100, {}),
}
PREFERENCES = {
    "preference/dpo_en_dev.json.gz": ("sharegpt_ranking", 220, {}),
    "preference/dpo_zh_dev.json.gz": ("sharegpt_ranking", 220, {}),
    # Six dialogues have two turns of one speaker in a row.
    "preference/hh_harmless_dev.jsonl.gz": (
        "hh",
        1501,
        {"roles out of order": 6, "empty response": 3},
    ),
    "preference/hhh_alignment_judge_dev.json.gz": ("judge_prompts", 112, {}),
    "preference/llmbar_adversarial_gptinst_dev.json": ("llmbar", 46, {}),
    "preference/llmbar_adversarial_gptout_dev.json": ("llmbar", 23, {}),
    "preference/llmbar_adversarial_manual_dev.json": ("llmbar", 23, {}),
    "preference/llmbar_adversarial_neighbor_dev.json": ("llmbar", 67, {}),
    "preference/llmbar_natural_dev.json": ("llmbar", 50, {}),
    # Some responses of the published file are the truth value true instead of text.
    "preference/pandalm_human_dev.json.gz": (
        "pandalm",
        499,
        {"tie": 56, "empty response": 16, "wrong type": 6},
    ),
}


def check(kind, name, expected):
    """The file gives its rows, format and reasons; also returns the records."""
    quarantine = files.Quarantine()
    result = formats.read(FOLDER / name, quarantine, kind)
    (detected,) = result.detected.values()
    assert (detected, result.rows, quarantine.counts) == expected
    assert len(result.records) + result.bad == result.rows
    quarantine.check(result.rows)
    return result.records


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversations_are_read_but_for_explained_rows(name):
    check("conversations", name, CONVERSATIONS[name])


@pytest.mark.parametrize("name", PREFERENCES)
def test_preferences_are_read_but_for_explained_rows(name):
    check("preference pairs", name, PREFERENCES[name])


@pytest.mark.parametrize("folder", ["sft", "preference"])
def test_no_file_of_a_folder_is_left_out_above(folder):
    expected = {name for name in CONVERSATIONS | PREFERENCES if name.startswith(folder)}
    found = files.list_files(FOLDER / folder)
    assert {path.relative_to(FOLDER).as_posix() for path in found} == expected


LAYOUTS = {
    Conversation: "sft",
    PreferencePair: "preference",
    AttributeLabels: "reward/nemo_aligner_regression_rm.jsonl",
}
# Reasons of the rows that a layout cannot hold: dialogues of several turns.
NOT_HELD = {
    "prompt_completion": {
        "prompt_completion cannot hold it: not one prompt and one response": 134
    }
}


@pytest.mark.parametrize("target", writers.TARGETS)
def test_every_record_is_written_and_comes_back(target, tmp_path):
    """Each is compared by the writer; here they are counted, and read from the file."""
    layout = writers.TARGETS[target]
    sources = conversion.find(FOLDER / LAYOUTS[layout.kind], target)
    out = tmp_path / "rows.jsonl"
    done = conversion.convert(sources, target, out, max_bad_fraction=1.0)
    reasons = {why: n for why, n in done.reasons.items() if "cannot hold" in why}
    assert reasons == NOT_HELD.get(target, {})
    found = list(formats.open_file(out).rows)
    assert not any(isinstance(item, files.BadRow) for item in found)
    assert len(found) == done.written > 0


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("advbench_harmful_behaviors_dev.csv", 260),
        ("xstest_prompts_dev.csv", 225),
        ("xstest_gpt4_completions_dev.csv.gz", 225),
    ],
)
def test_tables_have_their_rows(name, rows):
    found = list(files.read_rows(FOLDER / "safety" / name))
    assert len(found) == rows
    assert all(isinstance(row, files.Row) for row in found)


def test_all_gsm8k_answers_end_in_a_number():
    result = formats.read(
        sorted((FOLDER / "math").glob("gsm8k_*")), files.Quarantine(), "conversations"
    )
    ends = [re.search(r"\n#### [-\d,.]+$", r.last_response) for r in result.records]
    assert len(ends) == 7473
    assert all(ends)


def test_all_math_solutions_hold_a_boxed_answer():
    path = FOLDER / "math" / "math_dev.jsonl.gz"
    records = formats.read(path, files.Quarantine(), "conversations").records
    assert sum(r"\boxed" in record.last_response for record in records) == 2500


def test_regression_rows_have_the_five_labels_of_helpsteer():
    path = FOLDER / "reward" / "nemo_aligner_regression_rm.jsonl"
    records = check("attribute labels", path, ("nemo_regression", 8, {}))
    assert records[0].labels == (4.0, 4.0, 4.0, 3.0, 2.0)
    assert all(len(record.conversation.messages) == 3 for record in records)


def test_the_text_classes_have_their_bytes():
    found = corpus.find_corpus(FOLDER)
    quarantine = files.Quarantine()
    sizes = {}
    for name in corpus.TEXT_CLASSES:
        paths = found.training[name] + found.validation[name]
        read = corpus.read_documents(paths, name, quarantine)
        sizes[name] = sum(corpus.utf8_bytes(document.text) for document in read)
    assert sizes == {"english": 20999712, "multilingual": 4506580, "code": 4503273}
    assert quarantine.rows == []


def test_the_blend_of_the_validation_text_is_the_recipes():
    validation = corpus.find_corpus(FOLDER).validation
    by_class = {
        name: list(corpus.read_documents(paths, name, files.Quarantine()))
        for name, paths in validation.items()
    }
    rng = np.random.default_rng(0)
    total = 3_000_000
    given = dict.fromkeys(by_class, 0)
    for document in corpus.sample_blend(by_class, corpus.BLEND, rng, total):
        given[document.text_class] += corpus.utf8_bytes(document.text)
    for name, share in corpus.BLEND.items():
        assert given[name] / sum(given.values()) == pytest.approx(share, abs=0.02)


def test_every_stage_of_the_recipe_finds_its_files():
    found = corpus.find_recipe_data(FOLDER)
    name_of = {path: path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*")}
    sft = {name_of[path] for path in found.code_sft + found.general_sft}
    assert sft == {
        name
        for name in CONVERSATIONS
        if name.startswith("sft/") or name.endswith("_train.jsonl.gz")
    }
    assert {name_of[path] for path in found.code_sft} == {
        "sft/code_alpaca_2k.json.gz",
        "code/mbpp_train.jsonl.gz",
    }
    pairs = {name_of[path] for path in found.preferences + found.reward_pairs}
    assert pairs == set(PREFERENCES)
    assert len(found.preferences) == 3
    assert [path.name for path in found.reward_attributes] == [
        "nemo_aligner_regression_rm.jsonl"
    ]


def test_lines_that_end_in_crlf_are_read():
    """One published file was written on Windows."""
    path = FOLDER / "sdg" / "evol_instruct_testset.jsonl"
    rows = list(files.read_rows(path))
    assert len(rows) == 218
    assert all(isinstance(row, files.Row) for row in rows)

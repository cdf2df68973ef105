"""Pretraining text has the stated mixture and is made anew from its seed."""

import collections
import random
import re

import pytest

from nemojax.tasks.miniature import english, text, world


def test_classes_are_mixed_70_15_15_in_both_phases():
    for phase in (1, 2):
        rows = text.sample_labelled_documents(random.Random(1), 6000, phase)
        counts = collections.Counter(name for name, _ in rows)
        for name, share in text.CLASS_WEIGHTS.items():
            assert counts[name] / 6000 == pytest.approx(share, abs=0.02)


def test_half_of_the_english_documents_of_phase_two_are_tasks_answered():
    shares = []
    for phase in (1, 2):
        rows = text.sample_labelled_documents(random.Random(2), 6000, phase)
        documents = [document for name, document in rows if name == "english"]
        asked = sum(
            bool(re.match(r"Q: (?!W(hat|hich) )", document)) for document in documents
        )
        shares.append(asked / len(documents))
    assert shares[0] == 0  # facts are the only questions of the first phase
    assert shares[1] == pytest.approx(0.45, abs=0.03)  # and a tenth of the second's


def test_all_facts_are_stated_so_that_they_can_be_recalled():
    documents = text.sample_documents(random.Random(3), 60_000, 1)
    stated = set()
    for document in documents:
        if "?" in document:
            continue
        for country in re.findall(r"[A-Z][a-z]{5}\b", document):
            for attribute, value in world.FACTS.get(country, {}).items():
                if value in document:
                    stated.add((country, attribute))
    assert len(stated) == len(world.COUNTRIES) * len(world.ATTRIBUTES)


def test_quoted_speech_repeats_its_words():
    rng = random.Random(4)
    for _ in range(200):
        first, second = re.findall(r": (.*?)\.", english.quoted_speech(rng))
        assert second.strip("[] ").lower() == first


def test_stories_tell_true_sums_and_never_the_final_mark():
    rng = random.Random(5)
    for _ in range(500):
        story = english.counting_story(rng)
        assert "####" not in story and "?" not in story
        for left, right in re.findall(r"(\d+[-+*]\d+)=(\d+)", story):
            assert eval(left) == int(right)


def test_equal_seeds_give_equal_text():
    first, second = (text.sample_documents(random.Random(6), 500, 2) for _ in range(2))
    assert first == second
    assert first != text.sample_documents(random.Random(7), 500, 2)


def test_unknown_phase_is_named():
    with pytest.raises(ValueError, match="3"):
        text.sample_documents(random.Random(0), 1, 3)

"""Blends: files, shares, and UniMax."""

import numpy as np
import pytest

from nemojax.data.pretraining import blends
from nemojax.data.pretraining.blends import ClassBlend
from nemojax.data.pretraining.token_files import Group
from nemojax.io.quarantine import DataError

GROUPS = {
    Group("english", "en", "web", "training"): 700,
    Group("english", "en", "books", "training"): 300,
    Group("multilingual", "de", "web", "training"): 1000,
    Group("multilingual", "is", "web", "training"): 10,
    Group("code", "Python", "git", "training"): 80,
    Group("code", "C", "git", "training"): 20,
}


def weights(found):
    return {one.name: one.weight for one in found}


def test_the_default_is_seventy_fifteen_fifteen():
    found = blends.components(blends.NEMOTRON, GROUPS, 1000)
    assert weights(found) == pytest.approx(
        {
            "english": 0.7,
            # 150 tokens wanted of two languages, of which one has but 10, once each.
            "multilingual/de": 0.15 * 140 / 150,
            "multilingual/is": 0.15 * 10 / 150,
            "code": 0.15,
        }
    )
    assert {one.name: one.epochs for one in found}["multilingual/is"] == pytest.approx(
        1
    )


def test_a_file_says_the_same_as_the_classes(tmp_path):
    path = tmp_path / "blend.yaml"
    path.write_text(
        "english:\n  share: 3\n  by: source\n  weights: {web: 1, books: 3}\n"
        "code:\n  share: 1\n  by: language\n"
    )
    found = blends.components(blends.read(path), GROUPS, 1000)
    assert weights(found) == pytest.approx(
        {
            "english/books": 0.75 * 0.75,
            "english/web": 0.75 * 0.25,
            "code/C": 0.05,
            "code/Python": 0.2,
        }
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected classes"),
        ("latin:\n  share: 1\n", "class 'latin' is none of"),
        ("english: 1\n", "english: expected"),
        ("english:\n  shares: 1\n", "english: unknown shares"),
        ("english:\n  share: -1\n", "english: share -1"),
        ("english:\n  share: 1\n  max_epochs: 2\n", "need `by`"),
        ("english:\n  share: 1\n  by: year\n", "'year' is none of"),
        ("english: [\n", "while parsing"),
        ("english:\n  by: source\n", "share"),
    ],
)
def test_a_file_that_makes_no_blend_is_named(tmp_path, text, problem):
    path = tmp_path / "blend.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=problem) as caught:
        blends.read(path)
    assert str(path) in str(caught.value)


def test_text_that_is_not_there_is_named():
    blend = {"english": ClassBlend(1, "source", weights=(("papers", 1.0),))}
    with pytest.raises(DataError, match=r"english with source papers.*books, web"):
        blends.components(blend, GROUPS, 100)
    only_english = {g: n for g, n in GROUPS.items() if g.text_class == "english"}
    with pytest.raises(DataError, match=r"multilingual 0\.15"):
        blends.components(blends.NEMOTRON, only_english, 100)


def test_unimax_is_even_where_it_can_and_capped_where_it_must():
    np.testing.assert_allclose(blends.unimax([9, 9, 9], 3, 1), [1 / 3] * 3)
    np.testing.assert_allclose(
        blends.unimax([100, 1, 100], 101, 1),
        [0.5 - 0.5 / 101, 1 / 101, 0.5 - 0.5 / 101],
    )
    # More than the caps allow: as large as the texts.
    np.testing.assert_allclose(blends.unimax([30, 10], 1000, 4), [0.75, 0.25])


@pytest.mark.parametrize("budget", [1.0, 50.0, 400.0, 900.0])
def test_unimax_takes_from_the_large_only_for_the_capped(budget):
    sizes, cap = np.array([5.0, 80, 20, 300, 1]), 2.0
    tokens = np.array(blends.unimax(sizes, budget, cap)) * min(
        budget, cap * sizes.sum()
    )
    assert (tokens <= cap * sizes + 1e-9).all()
    free = tokens < cap * sizes - 1e-9
    if free.any():
        np.testing.assert_allclose(tokens[free], tokens[free][0])
        assert (tokens[~free] <= tokens[free][0] + 1e-9).all()

"""Rows that keep facts: true, grounded in their document, and on the training side."""

import random

import pytest

from nemojax.tasks.miniature import closed_book, split, world


def test_rows_ask_what_their_document_states():
    for row in closed_book.grounded_fact_rows(random.Random(1), 500):
        assert row.task.country in row.document and row.answer in row.document
        assert row.task.prompt == row.prompt
        assert row.task.grade(row.answer).correct
        assert "?" not in row.document


def test_rows_cover_exactly_the_facts_that_training_may_ask():
    rows = closed_book.grounded_fact_rows(random.Random(2), 3000)
    asked = {row.task.key for row in rows}
    expected = {
        f"facts:{country}:{attribute}"
        for country in world.COUNTRIES
        for attribute in world.ATTRIBUTES
    }
    assert asked == {key for key in expected if not split.is_test(key)}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_replay_states_facts_in_the_share_asked_for(share):
    documents = closed_book.replay_documents(random.Random(3), 2000, share)
    stated = sum(
        any(country in document for country in world.COUNTRIES)
        for document in documents
    )
    # A tenth or so of the other documents is about countries too.
    assert share <= stated / 2000 <= share + (1 - share) * 0.2


def test_equal_seeds_give_equal_rows():
    for make in (closed_book.grounded_fact_rows, closed_book.replay_documents):
        assert make(random.Random(4), 50) == make(random.Random(4), 50)

"""Where the tokens of an output stand in its text, for tokenizers of every kind."""

import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers")

from nemojax.inference.engine.outputs import LENGTH, TokenDelta, TokenScores
from nemojax.inference.text import text_stream
from nemojax.inference.text.output_text import OutputText, TextDelta
from nemojax.interop.loading import LoadedModel
from tests.data.text.tokenizer_kinds import KINDS, texts, tokenizer_of


def model_of(kind):
    """A model of which nothing but the tokenizer is asked."""
    tokenizer = tokenizer_of(kind)
    config = types.SimpleNamespace(vocab_size=tokenizer.vocab_size + 3)
    return LoadedModel("", config, {}, None, tokenizer, None, (), (), {})  # pyright: ignore


def taken(output, ids, sizes):
    """The whole of an output whose tokens come in groups of these sizes."""
    whole, left = TextDelta(), list(ids)
    while left or whole.finish_reason is None:
        size = next(sizes, len(left))
        new, left = left[:size], left[size:]
        scores = TokenScores(new, [0.0] * len(new), [[]] * len(new))
        delta = TokenDelta(0, scores, None if left else LENGTH)
        whole.extend(output.take(delta))
    return whole


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50)
@given(data=st.data())
def test_bytes_and_places_are_those_of_the_text_however_it_comes(kind, data):
    model = model_of(kind)
    ids = model.tokenizer.encode(data.draw(texts(kind)))
    groups = data.draw(st.lists(st.integers(1, 4)))
    found = taken(OutputText(model, places=True), ids, iter(groups))
    assert found == taken(OutputText(model, places=True), ids, iter(()))
    assert found.text == model.decode(ids)
    written = [
        model.token_bytes(token, first=place.first)
        for token, place in zip(ids, found.places, strict=True)
    ]
    assert b"".join(written) == found.text.encode()
    begin = 0
    for piece, place in zip(written, found.places, strict=True):
        # The whole characters before the first byte of the token.
        before = found.text.encode()[:begin].decode(errors="ignore")
        assert place.offset == len(before)
        begin += len(piece)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50)
@given(data=st.data())
def test_a_text_goes_on_behind_a_prompt_as_if_it_were_one(kind, data):
    """The prompt may end within a word and before a space, not within a character."""
    model = model_of(kind)
    ids = model.tokenizer.encode(data.draw(texts(kind)))
    cut = data.draw(st.integers(0, len(ids)))
    given = model.decode(ids[:cut])
    if "\ufffd" in given:
        return
    found = taken(OutputText(model, before=ids[:cut]), ids[cut:], iter(()))
    assert given + found.text == model.decode(ids)


@pytest.mark.parametrize("kind", ["byte-level", "ours"])
def test_a_character_that_the_prompt_leaves_open_is_written(kind):
    model = model_of(kind)
    ids = model.tokenizer.encode("a🙂 b")
    cut = next(k for k in range(len(ids)) if "\ufffd" in model.decode(ids[:k]))
    found = taken(OutputText(model, before=ids[:cut]), ids[cut:], iter(()))
    assert found.text == "🙂 b"


@pytest.mark.parametrize("kind", ["byte-level", "unigram", "ours"])
def test_tokens_behind_broken_characters_stand_where_the_text_says(kind):
    """Whatever the tokens are: a sampled answer need not be UTF-8.

    Byte fallback is left out: the library breaks all of a run of bytes for one of them.
    """
    model = model_of(kind)
    names = model.token_names
    tokens = range(model.tokenizer.vocab_size)
    for seed in range(40):
        ids = [tokens[(seed * 7919 + k * k * 31) % len(tokens)] for k in range(30)]
        found = taken(OutputText(model, places=True), ids, iter(()))
        for token, place in zip(ids, found.places, strict=True):
            piece = model.token_bytes(token, first=place.first).decode(errors="ignore")
            if piece and names[token] in (piece, f" {piece}"):
                assert found.text.startswith(piece, place.offset)


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_tokens_have_one_name(kind):
    names = model_of(kind).token_names
    assert len(set(names)) == len(names) == tokenizer_of(kind).vocab_size + 3


@settings(max_examples=50)
@given(text=texts("byte-level"))
def test_offsets_of_a_prompt_count_characters(text):
    """A control token writes none."""
    tokenizer = tokenizer_of("byte-level")
    ids = tokenizer.encode(text)
    found = text_stream.offsets(tokenizer, [tokenizer.bos_id, *ids])
    whole = taken(OutputText(model_of("byte-level"), places=True), ids, iter(()))
    assert found == [0, *(place.offset for place in whole.places)]

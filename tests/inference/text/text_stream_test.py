"""However tokens are cut, the pieces add up to the text before the stop string."""

import functools
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemojax.data.text import tokenizer
from nemojax.inference.text.text_stream import TextStream

TEXTS = [
    "the cat sat on the mat, the end.",
    "naïve façade — “déjà vu” 🙂🙃 日本語",
    "stop and go; STOP\n\nUser: ab abc abcd",
]


@functools.cache
def tokens_of(dummy_prefix):
    """A model with few pieces, so that most characters are several byte tokens."""
    return tokenizer.train(TEXTS * 3, vocab_size=330, dummy_prefix=dummy_prefix)


def until_stop(text, stops):
    """By every prefix: what stands before the first stop string that is complete."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@settings(max_examples=150)
@given(st.data())
def test_pieces_add_up_to_the_text_before_the_stop_string(data):
    model = tokens_of(data.draw(st.booleans()))
    if data.draw(st.booleans()):
        texts = data.draw(st.lists(st.sampled_from(TEXTS), max_size=2))
        ids = model.encode("".join(texts))
    else:  # anything, broken characters too
        ids = data.draw(st.lists(st.integers(0, model.vocab_size - 1), max_size=30))
    text = model.decode(ids)
    stops = data.draw(
        st.lists(
            st.sampled_from(["a", "ab", "bc", "abcd", "the", "\n\n", "🙂🙃", "STOP\n"])
        )
    )
    stream, found = TextStream(model, stops), ""
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=20))
    for start, end in itertools.pairwise(sorted([0, *cuts, len(ids)])):
        if not stream.stopped:
            found += stream.push(ids[start:end])
        # What was given is never taken back.
        assert until_stop(text, stops)[0].startswith(found)
    found += stream.finish()
    assert (found, stream.stopped) == until_stop(text, stops)


def test_text_comes_as_soon_as_it_is_certain():
    model = tokens_of(False)
    stream = TextStream(model)
    pieces = [stream.push([token]) for token in model.encode("a 한")]
    assert pieces[0] == "a"
    assert pieces[-1] == "한"
    assert pieces[-2] == ""


def test_a_space_behind_a_token_without_text_is_kept():
    model = tokens_of(True)
    silent = next(i for i in range(model.vocab_size) if not model.decode([i]))
    ids = [*model.encode("a"), silent, *model.encode(" b")]
    stream = TextStream(model)
    assert "".join(stream.push([token]) for token in ids) == model.decode(ids)


@pytest.mark.parametrize(("text", "given"), [("on the e", "on th"), ("on", "")])
def test_only_what_could_begin_a_stop_string_waits(text, given):
    model = tokens_of(False)
    stream = TextStream(model, ["end."])
    assert stream.push(model.encode(text)) == given
    assert stream.finish() == text[len(given) :]


def test_nothing_comes_after_a_stop_string():
    model = tokens_of(False)
    stream = TextStream(model, ["cat"])
    assert stream.push(model.encode("the cat sat")) == "the "
    assert stream.stopped
    assert stream.push(model.encode("more")) == stream.finish() == ""

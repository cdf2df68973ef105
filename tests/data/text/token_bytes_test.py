"""The bytes of a text's tokens are those of the text, for tokenizers of every kind."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers")

from tests.data.text.tokenizer_kinds import KINDS, texts, tokenizer_of


def joined(tokenizer, ids):
    """The bytes of tokens one after the other, as those of a text."""
    found, first = b"", True
    for token in ids:
        found += tokenizer.token_bytes(token, first=first)
        first = first and not tokenizer.token_bytes(token)
    return found


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(data=st.data())
def test_the_bytes_of_the_tokens_of_a_text_are_the_text(kind, data):
    tokenizer = tokenizer_of(kind)
    text = data.draw(texts(kind))
    ids = tokenizer.encode(text)
    assert joined(tokenizer, ids) == tokenizer.decode(ids).encode()


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_within_a_text_keeps_its_space(kind):
    tokenizer = tokenizer_of(kind)
    names = [tokenizer.piece_text(token) for token in tokenizer.encode("one two one")]
    assert "".join(names).strip() == "one two one"


@pytest.mark.parametrize("kind", ["byte-level", "fallback", "ours"])
def test_a_piece_of_a_character_is_named_after_its_bytes(kind):
    tokenizer = tokenizer_of(kind)
    names = "".join(map(tokenizer.piece_text, tokenizer.encode("x🙂")))
    assert names.endswith("<0xF0><0x9F><0x99><0x82>")


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_token_writes_no_bytes(kind):
    tokenizer = tokenizer_of(kind)
    assert tokenizer.token_bytes(tokenizer.bos_id) == b""
    assert tokenizer.piece_text(tokenizer.bos_id) in tokenizer.controls

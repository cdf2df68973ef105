"""The bytes of a text's tokens are those of the text, for tokenizers of every kind."""

import functools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers")

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from nemojax.data.text import tokenizer as sentencepiece
from nemojax.data.text.hf_tokenizer import HuggingFaceTokenizer
from tests.data.text.llama_tokenizer import SPECIAL, tokenizer_json

TEXTS = ["the teacher teaches three texts one two, a\nGrüße"] * 20
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
KINDS = ("byte-level", "fallback", "unigram", "ours", "ours with dummy prefix")


@functools.cache
def tokenizer_of(kind):
    """A tokenizer of a kind."""
    if kind == "byte-level":
        return HuggingFaceTokenizer(tokenizer_json(), SPECIAL)
    if kind.startswith("ours"):
        dummy = kind != "ours"
        return sentencepiece.train(TEXTS, vocab_size=310, dummy_prefix=dummy)
    found = _fallback() if kind == "fallback" else _unigram()
    return HuggingFaceTokenizer(json.dumps(found).encode(), NAMES)


def _fallback():
    """A tokenizer.json of Llama 2's kind."""
    made = tokenizers.Tokenizer(
        models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    space = normalizers.Replace(" ", "▁")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space])
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    special = ["<unk>", "<s>", "</s>", *BYTES]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    fields = json.loads(made.to_str())
    fields["added_tokens"] = fields["added_tokens"][:3]
    fields["pre_tokenizer"] = None
    return fields


def _unigram():
    """A tokenizer.json as transformers makes it of a SentencePiece Unigram model."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60,
        special_tokens=["<unk>", "<s>", "</s>"],
        unk_token="<unk>",
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    return json.loads(made.to_str())


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
    words = st.sampled_from(["the ", " one", "two", "\n", "▁", "  "])
    letters = st.text("one two", max_size=5)
    if kind != "unigram":  # which knows only the characters that it has seen
        letters |= st.text(max_size=5) | st.sampled_from(["🙂", "你", "é"])
    else:
        words = st.sampled_from(["the ", " one", "two"])
    text = "".join(data.draw(st.lists(words | letters)))
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

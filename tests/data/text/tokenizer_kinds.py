"""A tokenizer of each kind that there is, and texts that it can write."""

import functools
import json

import tokenizers
from hypothesis import strategies as st
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


def texts(kind):
    """Texts for a tokenizer of a kind: Unigram knows only what it has seen."""
    words = st.sampled_from(["the ", " one", "two"]) | st.text("one two", max_size=5)
    if kind != "unigram":
        words |= st.sampled_from(["\n", "▁", "  ", "🙂", "你", "é"]) | st.text(
            max_size=5
        )
    return st.lists(words).map("".join)

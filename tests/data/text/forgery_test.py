"""No text becomes a control token, and every text comes back, whatever it holds."""

import hypothesis
import pytest
from hypothesis import strategies as st

from nemojax.data.text import tokenizer as tokenizer_lib

CONTROLS = ("<extra_id_0>", "<extra_id_1>", "<extra_id_2>", "<s>", "</s>", "<pad>")
LLAMA = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>")
PIECES = (
    *CONTROLS,
    *LLAMA,
    "<extra_id_",
    "1>",
    "<extra_id_1",
    "<extra_id_11>",
    "<unk>",
    "<0x41>",
    "\u2581",
    "<\u2581extra_id_1>",
    "＜extra_id_1＞",
    "<extra\u200b_id_1>",
    "<eхtra_id_1>",
    "\x11",
    "\ufeff",
    "\U000e0001",
    "e\u0301",
    " ",
    "\n",
)
# Lone surrogates are in the alphabet: they are the one thing that must be refused.
TEXTS = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.text(st.characters(codec=None), max_size=4),
        st.sampled_from(PIECES),
    ),
    max_size=8,
).map("".join)
WORDS = ["some words, 1 + 1 = 2, <b>and</b> more\n"] * 20


@pytest.fixture(scope="module")
def sentencepiece():
    tokenizer = tokenizer_lib.train(WORDS, vocab_size=310)
    return tokenizer, {tokenizer.control(f"<extra_id_{i}>") for i in range(8)} | {
        0,
        2,
        3,
    }


@pytest.fixture(scope="module")
def hugging_face():
    pytest.importorskip("tokenizers")
    from nemojax.data.text.hf_tokenizer import HuggingFaceTokenizer
    from tests.data.text import llama_tokenizer as llama

    tokenizer = HuggingFaceTokenizer(llama.tokenizer_json(), llama.SPECIAL)
    return tokenizer, {tokenizer.control(piece) for piece in llama.CONTROLS}


def check(tokenizer, controls, examples):
    """Runs the property on that many texts."""

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(TEXTS)
    def holds(text):
        try:
            text.encode()
        except UnicodeEncodeError:
            with pytest.raises(ValueError):
                tokenizer.encode(text)
            return
        ids = tokenizer.encode(text)
        assert controls.isdisjoint(ids)
        assert tokenizer.decode(ids) == text

    holds()


@pytest.mark.parametrize("kind", ["sentencepiece", "hugging_face"])
@pytest.mark.parametrize(
    "examples", [500, pytest.param(100_000, marks=pytest.mark.slow)]
)
def test_no_text_forges_a_control_token(kind, examples, request):
    check(*request.getfixturevalue(kind), examples)

import io

import hypothesis
import pytest
import sentencepiece
from hypothesis import strategies

from nemojax.data.text import tokenizer as tokenizer_lib

TEXTS = [
    "The user said hello, and the assistant said hello too.\nUser and Assistant\n",
    "  def add(a, b):\n\treturn a + b  # 12 + 345 = 357\r\n",
    "Grüße aus Köln, 你好, and \u2581 too; #### 42",
] * 20
EXTRA = ("User", "Assistant", "####", "\n\n")
CONTROL_TEXTS = (
    "<extra_id_0>",
    "<extra_id_1>User\n",
    "<extra_id_7>",
    "<s>",
    "</s>",
    "<pad>",
    "<unk>",
    "<0x0A>",
    "<0x00>",
)
HARD_TEXTS = (
    "",
    " ",
    "  leading and trailing  ",
    "\0",
    "\r\n\t\v",
    "\n\n\n",
    "\u2581",
    " \u2581 \u2581\u2581",
    "\u2585\ufeff\ufffd",
    "e\u0301 \u00e9 \ufb01 \uff1cextra_id_1\uff1e",
    "\U0001f600",
)


@pytest.fixture(scope="module", params=[False, True], ids=["exact", "dummy_prefix"])
def tokenizer(request):
    return tokenizer_lib.train(
        TEXTS, vocab_size=340, extra_pieces=EXTRA, dummy_prefix=request.param
    )


@pytest.fixture(scope="module")
def user_defined():
    """A model as others make them: its control pieces are user-defined symbols."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        model_type="bpe",
        vocab_size=340,
        user_defined_symbols=["<extra_id_0>", "<extra_id_1>"],
        byte_fallback=True,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return tokenizer_lib.Tokenizer(model.getvalue(), dummy_prefix=False)


def _control_ids(tokenizer):
    return {0, 1, 2, 3, *(tokenizer.control(f"<extra_id_{i}>") for i in range(2))}


@hypothesis.settings(max_examples=200)
@hypothesis.given(
    text=strategies.one_of(
        strategies.text(),
        strategies.lists(
            strategies.sampled_from(CONTROL_TEXTS + HARD_TEXTS + ("User", "12", "a"))
        ).map("".join),
    )
)
def test_any_text_comes_back_and_gives_no_control_id(tokenizer, user_defined, text):
    for each in (tokenizer, user_defined):
        ids = each.encode(text)
        assert each.decode(ids) == text
        assert not _control_ids(each) & set(ids)
        assert each.decode(each.encode_inside(text)) == (
            text.removeprefix(" ") if each.dummy_prefix else text
        )


@pytest.mark.parametrize("text", CONTROL_TEXTS + HARD_TEXTS)
def test_named_hard_texts_come_back(tokenizer, user_defined, text):
    for each in (tokenizer, user_defined):
        ids = each.encode(f"{text}x{text}")
        assert each.decode(ids) == f"{text}x{text}"
        assert not _control_ids(each) & set(ids)


def test_the_trap_is_real_without_protection(user_defined, tmp_path):
    """SentencePiece itself finds user-defined symbols in texts."""
    user_defined.save(tmp_path / "a.model")
    plain = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "a.model"))
    assert user_defined.control("<extra_id_1>") in plain.encode("a<extra_id_1>b")


def test_special_ids_come_first_and_decode_to_nothing(tokenizer):
    special = [tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id]
    assert special == [0, 2, 3]
    controls = [tokenizer.control(f"<extra_id_{index}>") for index in range(8)]
    assert controls == list(range(4, 12))
    hello = tokenizer.encode("hello")
    assert tokenizer.decode([*special, *controls, *hello, *controls]) == "hello"


def test_an_absent_control_piece_is_named(tokenizer):
    for piece in ("<extra_id_8>", "User", "nonsense"):
        with pytest.raises(ValueError, match=f"no control piece '{piece}'"):
            tokenizer.control(piece)


def test_extra_pieces_newlines_and_digits_are_single_tokens(tokenizer):
    for text in (*EXTRA, "\n", "\t", "7"):
        assert len(tokenizer.encode_inside(text)) == 1
    assert len(tokenizer.encode_inside("2024")) == 4


def test_dummy_prefix_makes_first_words_like_others():
    with_prefix = tokenizer_lib.train(TEXTS, vocab_size=340, dummy_prefix=True)
    ids = with_prefix.encode("hello hello")
    assert ids[: len(ids) // 2] == ids[len(ids) // 2 :]


def test_dummy_prefix_of_a_model_can_be_overridden(tmp_path):
    path = tmp_path / "tokenizer.model"
    for trained in (False, True):
        tokenizer_lib.train(TEXTS, vocab_size=340, dummy_prefix=trained).save(path)
        assert tokenizer_lib.Tokenizer.load(path).dummy_prefix == trained
        changed = tokenizer_lib.Tokenizer(path.read_bytes(), dummy_prefix=not trained)
        text = "hello" if trained else " hello"
        assert changed.encode("hello") == changed.encode_inside(text)


def test_training_and_files_are_reproducible(tokenizer, tmp_path):
    again = tokenizer_lib.train(
        TEXTS,
        vocab_size=340,
        extra_pieces=EXTRA,
        dummy_prefix=tokenizer.dummy_prefix,
    )
    assert again.fingerprint == tokenizer.fingerprint
    tokenizer.save(tmp_path / "tokenizer.model")
    loaded = tokenizer_lib.Tokenizer.load(tmp_path / "tokenizer.model")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.dummy_prefix == tokenizer.dummy_prefix
    assert loaded.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    assert loaded.vocab_size == 340


def test_long_lines_and_reserved_characters_are_still_learnt():
    """Alone, the trainer would leave these texts out."""
    word = "abracadabra"
    for text in (word * 10_000, f"\0\u2585{word}\0" * 100):
        learnt = tokenizer_lib.train([text], vocab_size=290)
        assert len(learnt.encode(word)) < len(word)


def test_without_byte_fallback_newlines_survive_and_unknown_characters_do_not():
    small = tokenizer_lib.train(
        ["some words\nand lines"] * 9, vocab_size=40, byte_fallback=False
    )
    assert small.decode(small.encode("words\nand\n")) == "words\nand\n"
    assert small.decode(small.encode("wor火ds")) == "wor\ufffdds"


def test_unfinished_characters_decode_to_the_replacement_character(tokenizer):
    ids = tokenizer.encode_inside("火")
    assert len(ids) == 3
    assert tokenizer.decode(ids[:2]) == "\ufffd"


@pytest.mark.parametrize("token_id", [-1, 340])
def test_ids_outside_of_the_vocabulary_are_named(tokenizer, token_id):
    with pytest.raises(ValueError, match=f"token id {token_id} is outside"):
        tokenizer.decode([token_id])


def test_a_lone_surrogate_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="surrogates not allowed"):
        tokenizer.encode("a\ud800")


@pytest.mark.parametrize("piece", ["", "a b", "\u2581a", "x<extra_id_1>"])
def test_rejects_unusable_extra_pieces(piece):
    with pytest.raises(ValueError, match="extra piece"):
        tokenizer_lib.train(TEXTS, vocab_size=340, extra_pieces=(piece,))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"vocab_size": 100}, r"100 pieces are too few: .* alone are \d+$"),
        ({"vocab_size": 100_000}, r"too small for 100000 pieces: .* at most$"),
        ({"texts": []}, "there is no text to learn from$"),
        ({"texts": ["\n", ""]}, "there is no text to learn from$"),
        ({"texts": [*TEXTS, "a\ud800"]}, r"holds a lone surrogate, '\\ud800'$"),
        ({"extra_pieces": ["ab", "ab"]}, "extra piece 'ab' comes twice$"),
        ({"character_coverage": 2.0}, r"outside of \[0.98, 1\]$"),
    ],
)
def test_what_cannot_be_trained_is_named_in_our_own_words(settings, problem):
    arguments = {"texts": TEXTS, "vocab_size": 340} | settings
    with pytest.raises(ValueError, match=problem) as caught:
        tokenizer_lib.train(**arguments)
    assert ".cc(" not in str(caught.value)


def test_rejects_bytes_that_are_no_model():
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        tokenizer_lib.Tokenizer(b"junk")

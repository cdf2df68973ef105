"""The files for `AutoTokenizer` give the ids of the SentencePiece model."""

import json

import hypothesis
import pytest
from hypothesis import strategies as st

tokenizers = pytest.importorskip("tokenizers")

from nemojax.data.records import Conversation, Message  # noqa: E402
from nemojax.data.text import tokenizer as tokenizer_lib  # noqa: E402
from nemojax.data.text.jinja_template import JinjaTemplate  # noqa: E402
from nemojax.data.text.nemotron_template import NEMOTRON  # noqa: E402
from nemojax.interop import tokenizer_files  # noqa: E402

WORDS = ["the teacher teaches three texts, ==, 1 + 1 = 2, the other aaaa aaa\n"] * 20
KINDS = {
    "plain": {},
    "dummy_prefix": {"dummy_prefix": True},
    "extra_pieces": {"extra_pieces": ["==", "te"]},
    "no_bytes": {"byte_fallback": False},
}
TEXTS = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8", exclude_characters="\u2581"), max_size=6),
        st.sampled_from(WORDS[0].split(" ")),
        st.text("aet h=", max_size=12),
    ),
    max_size=8,
).map("".join)
TALK = Conversation(
    (
        Message("system", "the texts"),
        Message("user", " two\n\n"),
        Message("assistant", "three."),
        Message("user", "é"),
        Message("assistant", "the other"),
    )
)


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    """Our tokenizer, and the library's of the files that it was written to."""
    kind = KINDS[request.param]
    ours = tokenizer_lib.train(
        WORDS, vocab_size=322 if kind.get("byte_fallback", True) else 80, **kind
    )
    path = tmp_path_factory.mktemp(request.param)
    tokenizer_files.write(path, ours)
    theirs = tokenizers.Tokenizer.from_file(str(path / tokenizer_files.FAST))
    return ours, theirs


@hypothesis.settings(max_examples=300)
@hypothesis.given(TEXTS)
def test_any_text_has_the_same_ids_and_comes_back(both, text):
    ours, theirs = both
    if any(piece in text for piece in (*ours.controls, "<unk>")):
        return
    ids = theirs.encode(text, add_special_tokens=False).ids
    assert ids == ours.encode(text)
    if ours.unk_id not in ids:
        assert theirs.decode(ids, skip_special_tokens=False) == text


def test_control_pieces_are_special_tokens_with_our_ids(both):
    ours, theirs = both
    assert theirs.get_vocab_size() == ours.vocab_size
    for piece in ours.controls:
        found = theirs.encode(f"a{piece}b", add_special_tokens=False).ids
        assert ours.control(piece) in found
        assert ours.control(piece) == theirs.token_to_id(piece)


@pytest.mark.parametrize("messages", [2, 3, 5])
@pytest.mark.parametrize("open_answer", [False, True])
def test_the_chat_template_gives_our_tokens(tmp_path, messages, open_answer):
    ours = tokenizer_lib.train(WORDS, vocab_size=322)
    tokenizer_files.write(tmp_path, ours)
    fields = json.loads((tmp_path / tokenizer_files.CONFIG).read_text())
    template = JinjaTemplate(fields["chat_template"], ours.controls)
    talk = Conversation(TALK.messages[1 if messages == 2 else 0 :][:messages])
    # What a checkpoint's own template is given has its texts stripped.
    stripped = Conversation(
        tuple(Message(m.role, m.content.strip()) for m in talk.messages)
    )
    if open_answer:
        found = template.encode_prompt(ours, stripped.prompt)
        assert found == NEMOTRON.encode_prompt(ours, stripped.prompt)
    elif talk.messages[-1].role == "assistant":
        assert template.encode(ours, stripped)[0] == NEMOTRON.encode(ours, stripped)[0]


def test_only_a_tokenizer_of_ours_without_the_files_is_to_be_written(tmp_path):
    assert tokenizer_files.own(tokenizer_files.find(tmp_path)) is None
    ours = tokenizer_lib.train(WORDS, vocab_size=322)
    ours.save(tmp_path / tokenizer_files.MODEL)
    found = tokenizer_files.own(tokenizer_files.find(tmp_path))
    assert found is not None and found.fingerprint == ours.fingerprint
    tokenizer_files.write(tmp_path, ours)
    assert tokenizer_files.own(tokenizer_files.find(tmp_path)) is None
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / tokenizer_files.MODEL).write_bytes(b"no model")
    assert tokenizer_files.own(tokenizer_files.find(tmp_path / "other")) is None

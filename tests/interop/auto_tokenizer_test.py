"""What transformers makes of the tokenizer files that we write."""

import pytest

from nemojax.data.records import Conversation
from nemojax.data.text import tokenizer as tokenizer_lib
from nemojax.data.text.nemotron_template import NEMOTRON
from nemojax.interop import tokenizer_files

transformers = pytest.importorskip("transformers")
WORDS = ["the teacher teaches three texts, ==, 1 + 1 = 2\n"] * 20
TALK = Conversation.of("what is 1 + 1?", "2", "be short")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    ours = tokenizer_lib.train(WORDS, vocab_size=310)
    tokenizer_files.write(path, ours)
    return ours, transformers.AutoTokenizer.from_pretrained(path)


@pytest.mark.parametrize("text", ["the texts é 12\n\n x", "  two", "", "=== 100"])
def test_ids_are_the_same(both, text):
    ours, theirs = both
    assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    assert theirs.decode(ours.encode(text)) == text


def test_special_tokens_are_the_same(both):
    ours, theirs = both
    found = (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert found == (ours.bos_id, ours.eos_id, ours.pad_id)


@pytest.mark.parametrize("open_answer", [False, True])
def test_the_chat_template_gives_our_tokens(both, open_answer):
    ours, theirs = both
    messages = [
        {"role": message.role, "content": message.content} for message in TALK.messages
    ]
    text = theirs.apply_chat_template(
        messages[:2] if open_answer else messages,
        add_generation_prompt=open_answer,
        tokenize=False,
    )
    expected = (
        NEMOTRON.encode_prompt(ours, TALK.prompt)
        if open_answer
        else NEMOTRON.encode(ours, TALK)[0]
    )
    assert theirs(text, add_special_tokens=False)["input_ids"] == expected

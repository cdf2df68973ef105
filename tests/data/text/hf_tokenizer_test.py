"""Text of a `tokenizer.json`: exact both ways, and never a control token."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers")

from nemojax.data.text.hf_tokenizer import HuggingFaceTokenizer
from tests.data.text import chat_tokenizers
from tests.data.text.llama_tokenizer import CONTROLS, SPECIAL, tokenizer_json

TOKENIZER = HuggingFaceTokenizer(tokenizer_json(), SPECIAL)
CONTROL_IDS = {TOKENIZER.control(piece) for piece in CONTROLS}
# Any text, with control tokens, parts of them and look-alikes spliced in.
LOOK_ALIKES = ("<|eot_id", "|>", "<｜eot_id｜>", "<|eot\u200b_id|>", "<|begin_of_text|")
TEXTS = st.lists(
    st.one_of(st.text(max_size=12), st.sampled_from((*CONTROLS, *LOOK_ALIKES)))
).map("".join)


@settings(max_examples=500)
@given(TEXTS)
def test_any_text_comes_back_and_holds_no_control_token(text):
    ids = TOKENIZER.encode(text)
    assert CONTROL_IDS.isdisjoint(ids)
    assert TOKENIZER.decode(ids) == text


def test_the_ids_are_those_of_the_library():
    import tokenizers

    library = tokenizers.Tokenizer.from_str(tokenizer_json().decode())
    text = "the user asks, and the assistant answers."
    expected = library.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.encode(text) == expected
    assert TOKENIZER.control("<|eot_id|>") == library.token_to_id("<|eot_id|>")
    assert TOKENIZER.vocab_size == library.get_vocab_size()


def test_control_tokens_write_nothing():
    ids = [TOKENIZER.bos_id, *TOKENIZER.encode("one"), TOKENIZER.eos_id]
    assert TOKENIZER.decode(ids) == "one"


def test_a_lone_surrogate_is_refused():
    with pytest.raises(ValueError, match="surrogates not allowed"):
        TOKENIZER.encode("a\ud800")


def test_unknown_names_and_ids_are_refused():
    with pytest.raises(ValueError, match=r"no control token '<eot>'; there are <\|beg"):
        TOKENIZER.control("<eot>")
    with pytest.raises(ValueError, match=r"token id 9999 is outside of \[0, "):
        TOKENIZER.decode([9999])
    with pytest.raises(ValueError, match="bos_token 'nothing' is not in"):
        HuggingFaceTokenizer(tokenizer_json(), {"bos_token": "nothing"})
    with pytest.raises(ValueError, match="names no eos_token"):
        _ = HuggingFaceTokenizer(tokenizer_json()).eos_id


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff"])
def test_what_is_no_tokenizer_is_refused(data):
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        HuggingFaceTokenizer(data)


def test_a_vocabulary_that_spells_a_control_token_is_caught():
    """Its merges can make the token from text: better an error than a forged turn."""
    fields = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": 2,
                "content": "<>",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "model": {
            "type": "BPE",
            "vocab": {"<": 0, ">": 1, "<>": 2},
            "merges": [["<", ">"]],
        },
    }
    tokenizer = HuggingFaceTokenizer(json.dumps(fields).encode())
    assert tokenizer.encode("><") == [1, 0]
    with pytest.raises(ValueError, match="spells the control token '<>'"):
        tokenizer.encode("<>")


def test_roles_are_read_from_the_files_beside_it(tmp_path):
    TOKENIZER.save(tmp_path / "tokenizer.json")
    fields = {"bos_token": {"content": CONTROLS[0]}, "eos_token": CONTROLS[4]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    found = HuggingFaceTokenizer.load(tmp_path)
    assert (found.bos_id, found.eos_id) == (TOKENIZER.bos_id, TOKENIZER.eos_id)
    assert found.pad_id == found.eos_id
    assert found.fingerprint == TOKENIZER.fingerprint


@pytest.fixture(scope="module", params=chat_tokenizers.KINDS)
def both(request, tmp_path_factory):
    """A tokenizer of a kind, and the library's own."""
    import tokenizers

    path = tmp_path_factory.mktemp("tokenizer")
    chat_tokenizers.write(path, request.param)
    library = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    return HuggingFaceTokenizer.load(path), library


@pytest.mark.parametrize("text", ["one", " one ", "\n\n", "<think>a</think>", "  "])
@pytest.mark.parametrize("before", ["</s>", "<|user|>"])
@pytest.mark.parametrize("after", [None, "<s>"])
def test_a_text_beside_control_tokens_is_encoded_as_the_library_does(
    both, text, before, after
):
    ours, library = both
    whole = library.encode(f"{before}{text}{after or ''}", add_special_tokens=False)
    inside = ours.encode_inside(text, before, after)
    ends = [] if after is None else [ours.control(after)]
    assert [ours.control(before), *inside, *ends] == whole.ids


@pytest.mark.parametrize("text", ["one two", "\n answers", "<think>\n yes", "4 2"])
def test_a_text_goes_on_without_a_space_before_it(both, text):
    """Wherever no token reaches over the cut, two parts are one text."""
    ours, library = both
    for begun in ("the user:", "USER"):
        whole = library.encode(begun + text, add_special_tokens=False)
        start = ours.encode(begun)
        parts = start + ours.encode_inside(text)
        assert ours.decode(parts) == library.decode(whole.ids)
        starts = [first for first, _ in whole.offsets]
        if whole.ids[: len(start)] == start and len(begun) in starts:
            assert parts == whole.ids


def test_added_tokens_that_are_not_special_are_text(both):
    ours, library = both
    for text in ("<think>one</think>", "use kubectl:\n    two", "<｜User｜>"):
        ids = library.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids
        assert ours.decode([*ids, ours.eos_id]) == library.decode(ids)
    assert {"<think>", "kubectl"}.isdisjoint(ours.controls)
    assert {"<s>", "<|end|>", "<unk>"} <= set(ours.controls)


def test_what_a_chat_template_marks_turns_with_is_no_text(tmp_path):
    """Some files call neither `<|im_start|>` nor `<｜User｜>` special."""
    chat_tokenizers.write(tmp_path, "byte level", chat_template="<｜User｜><think>")
    found = HuggingFaceTokenizer.load(tmp_path)
    assert "<｜User｜>" in found.controls and "<think>" not in found.controls
    assert found.control("<｜User｜>") not in found.encode("<｜User｜>")
    assert found.decode(found.encode("<｜User｜>")) == "<｜User｜>"


def test_the_files_beside_it_say_what_its_added_tokens_are(tmp_path):
    entry = {"content": "kubectl", "special": True}
    chat_tokenizers.write(
        tmp_path,
        "byte level",
        added_tokens_decoder={"1": entry, "2": {"content": "unknown"}},
        eos_token="<|end|>",
        pad_token="    ",
    )
    found = HuggingFaceTokenizer.load(tmp_path)
    assert {"kubectl", "    "} <= set(
        found.controls
    ) and "unknown" not in found.controls
    assert found.control("kubectl") not in found.encode("kubectl get")
    # What takes the white space after it takes it in any role.
    assert found.encode_inside("  one", "<|end|>") == found.encode_inside("one")


def test_added_tokens_that_are_none_are_refused(tmp_path):
    chat_tokenizers.write(tmp_path, "byte level", added_tokens_decoder={"1": "a"})
    with pytest.raises(ValueError, match="added_tokens_decoder holds no added tokens"):
        HuggingFaceTokenizer.load(tmp_path)


def test_a_piece_is_named_by_what_it_writes_inside_of_a_text(both):
    ours, _ = both
    text = "the user asks and answers"
    ids = ours.encode_inside(text)
    assert "".join(map(ours.piece_text, ids)) == text
    assert ours.piece_text(ours.eos_id) == "</s>"


def test_a_character_without_a_token_is_named():
    """It would be lost: the peer writes `<unk>` in its place."""
    import tokenizers

    model = tokenizers.models.WordLevel({"<unk>": 0, "one": 1}, unk_token="<unk>")
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>"}
    found = HuggingFaceTokenizer(library.to_str().encode(), special)
    assert found.encode("one one") == [1, 1]
    with pytest.raises(ValueError, match="has no token for 'two'"):
        found.encode("one two one")

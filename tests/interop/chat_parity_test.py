"""Chats as tokens: what `apply_chat_template` of transformers gives, and masks."""

import functools
import random

import pytest

from nemojax.data.records import Conversation, Message
from nemojax.data.text.jinja_template import JinjaTemplate
from nemojax.data.text.llama_templates import Llama2Template
from nemojax.errors import UserError
from nemojax.interop import loading
from tests.data.text import chat_tokenizers
from tests.data.text.chat_templates import OPENED, TEMPLATES

transformers = pytest.importorskip("transformers")
# A kind, and the fields of tokenizer_config.json.
MAIN = ("byte level, llama 3", "pieces, first", "unigram, first")
FAST = "LlamaTokenizerFast"
TOKENIZERS = {
    **{kind: (kind, {}) for kind in chat_tokenizers.KINDS},
    "LlamaTokenizer": ("pieces, prepend", {"tokenizer_class": "LlamaTokenizer"}),
    "legacy": ("pieces, prepend", {"tokenizer_class": FAST, "legacy": True}),
    "not legacy": ("pieces, always", {"tokenizer_class": FAST, "legacy": False}),
    "no prefix": (
        "pieces, always",
        {"tokenizer_class": FAST, "add_prefix_space": False},
    ),
    "byte level, too": ("byte level", {"tokenizer_class": FAST}),
}
OTHERS = [name for name in TOKENIZERS if name not in MAIN]
# The first of them ends an answer.
ENDS = ("<|im_end|>", "</s>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<extra_id_1>")
PIECES = (
    *"abcé你\U0001f600\u00a0\u0301ﬁ \n\t.,:]#0",
    *("the user", "answers", "  ", "    ", "\n\n", "\r\n", " \n ", "\u2581", "###"),
    *("<think>", "</think>", "<think>\nwhy\n</think>\n\n", "kubectl", "[/INST]", "one"),
    *("USER: ", "\nASSISTANT:", "detailed thinking on", "{{ x }}", "\\n", "</", "two"),
)


def said(draw, least=1):
    return "".join(draw.choices(PIECES, k=draw.randint(least, 6)))


def dialogue(seed):
    """Some turns that end with an answer, maybe after a system text, maybe empty."""
    draw = random.Random(seed)
    turns = [("system", said(draw, least=0))] * draw.randint(0, 1)
    for _ in range(draw.randint(1, 3)):
        turns += [("user", said(draw)), ("assistant", said(draw))]
    return [{"role": role, "content": text} for role, text in turns]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Our tokenizer and theirs, of the same files, by name."""
    found = {}

    def both(name):
        if name not in found:
            path = tmp_path_factory.mktemp("tokenizer")
            kind, config = TOKENIZERS[name]
            template = TEMPLATES["deepseek"]
            chat_tokenizers.write(path, kind, chat_template=template, **config)
            theirs = transformers.AutoTokenizer.from_pretrained(path)
            found[name] = loading.load_tokenizer(path), theirs
        return found[name]

    return both


@functools.cache
def jinja(source, controls):
    """Returns our template, whose process serves all tokenizers."""
    return JinjaTemplate(source, controls, variables=chat_tokenizers.ROLES)


def conversation(messages):
    return Conversation(tuple(Message(**message) for message in messages))


def expected_mask(theirs, whole, prompts):
    """Marks each answer up to the token that ends it, and all where there is none."""
    ends = set(theirs.convert_tokens_to_ids(list(ENDS)))
    mask = [0] * len(whole)
    for prompt in prompts:
        start = len(prompt)
        after = (at for at in range(start, len(whole)) if whole[at] in ends)
        stop = next(after, len(whole) - 1) + 1
        mask[start:stop] = [1] * (stop - start)
    return mask


def check(ours, theirs, source, seeds):
    """Compares prompts, whole dialogues and masks of many dialogues."""
    template = jinja(source, ours.controls)

    def peer(messages, **options):
        return theirs.apply_chat_template(
            messages, chat_template=source, return_dict=False, **options
        )

    for seed in seeds:
        messages = dialogue(seed)
        talk, turn = conversation(messages), len(messages) - 1
        answers = range(2 - turn % 2, turn + 1, 2)
        prompts = [peer(messages[:at], add_generation_prompt=True) for at in answers]
        whole, last = peer(messages), prompts[-1]
        assert template.encode_prompt(ours, talk.prompt) == last, seed
        assert template.encode_for_reward(ours, talk) == whole, seed
        tokens, mask = template.encode_response(ours, talk.prompt, talk.last_response)
        assert tokens[: len(last)] == last, seed
        if whole[: len(last)] == last:
            assert tokens == whole, seed
            assert mask == expected_mask(theirs, whole, [last]), seed
        if any(end in source for end in ENDS) and all(
            whole[: len(prompt)] == prompt for prompt in prompts
        ):
            found = template.encode(ours, talk)
            assert found == (whole, expected_mask(theirs, whole, prompts)), seed


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", MAIN)
def test_chats_have_the_tokens_of_transformers(tokenizers, name, template):
    ours, theirs = tokenizers(name)
    check(ours, theirs, TEMPLATES[template], range(50))


@pytest.mark.parametrize("template", ["llama 2", "llama 3", "phi", "vicuna, all text"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_tokenizers_have_them_too(tokenizers, name, template):
    ours, theirs = tokenizers(name)
    check(ours, theirs, TEMPLATES[template], range(12))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_llama_2_template_built_in_gives_those_tokens(tokenizers, name):
    ours, theirs = tokenizers(name)
    source = TEMPLATES["llama 2"]
    for seed in range(20):
        messages = [turn for turn in dialogue(seed) if turn["role"] != "system"]
        if all(turn["content"].strip() for turn in messages):
            whole = theirs.apply_chat_template(
                messages, chat_template=source, return_dict=False
            )
            talk = conversation(messages)
            tokens, mask = Llama2Template().encode(ours, talk)
            assert tokens == whole
            assert (tokens, mask) == jinja(source, ours.controls).encode(ours, talk)


@pytest.mark.parametrize("name", OPENED)
def test_a_prompt_that_no_answer_follows_is_refused(tokenizers, name):
    """What a model would be asked with is not what it would be trained on."""
    ours, theirs = tokenizers(MAIN[0])
    source = OPENED[name]
    template = jinja(source, ours.controls)
    messages = [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": "one"},
    ][name == "alone" :]
    expected = theirs.apply_chat_template(
        messages, chat_template=source, add_generation_prompt=True, return_dict=False
    )
    prompt = conversation(messages)
    assert template.encode_prompt(ours, prompt) == expected
    problem = rf"message {len(messages)}: the chat template asks for this answer with"
    with pytest.raises(UserError, match=problem):
        template.encode_response(ours, prompt, "two")
    with pytest.raises(UserError, match=problem):
        template.encode(ours, prompt.with_response("two"))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_with_added_tokens_are_those_of_transformers(tokenizers, name):
    ours, theirs = tokenizers(name)
    for seed in range(100):
        text = said(random.Random(seed))
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text) == ids, text
        control = ours.control("<|im_end|>")
        written = theirs.decode([*ids, control], skip_special_tokens=True)
        assert ours.decode([*ids, control]) == written
        again = theirs(written, add_special_tokens=False)["input_ids"]
        assert ours.encode(ours.decode(ids)) == again

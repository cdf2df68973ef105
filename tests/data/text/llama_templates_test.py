"""Llama 2, Llama 3 and a checkpoint's own template: tokens, masks, and forgeries."""

import pytest

pytest.importorskip("tokenizers")

from nemojax.data.records import Conversation, Message
from nemojax.data.text.hf_tokenizer import HuggingFaceTokenizer
from nemojax.data.text.jinja_template import JinjaTemplate
from nemojax.data.text.llama_templates import Llama2Template, Llama3Template
from tests.data.text.llama_tokenizer import CONTROLS, SPECIAL, tokenizer_json

TOKENIZER = HuggingFaceTokenizer(tokenizer_json(), SPECIAL)
LLAMA3_JINJA = """
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
{{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
JINJA = JinjaTemplate(LLAMA3_JINJA, CONTROLS, variables={"bos_token": CONTROLS[0]})
LLAMA2 = Llama2Template(bos="<|begin_of_text|>", eos="<|eot_id|>")
TEMPLATES = {"llama3": Llama3Template(), "jinja": JINJA, "llama2": LLAMA2}
TALK = Conversation(
    (
        Message("system", "system."),
        Message("user", " the user asks "),
        Message("assistant", "one two\n"),
        Message("user", "and?"),
        Message("assistant", "three."),
    )
)


def shown(tokens):
    """The tokens as one string, control tokens by name."""
    names = {TOKENIZER.control(piece): piece for piece in CONTROLS}
    return "".join(names.get(token) or TOKENIZER.decode([token]) for token in tokens)


def trained(tokens, mask):
    return shown([token for token, one in zip(tokens, mask, strict=True) if one])


@pytest.mark.parametrize("name", ["llama3", "jinja"])
def test_llama_3_has_a_header_before_each_message(name):
    tokens, mask = TEMPLATES[name].encode(TOKENIZER, TALK)
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    user, assistant = header.format("user"), header.format("assistant")
    assert shown(tokens) == (
        f"<|begin_of_text|>{header.format('system')}system.<|eot_id|>"
        f"{user}the user asks<|eot_id|>{assistant}one two<|eot_id|>"
        f"{user}and?<|eot_id|>{assistant}three.<|eot_id|>"
    )
    assert trained(tokens, mask) == "one two<|eot_id|>three.<|eot_id|>"


def test_a_jinja_template_gives_the_tokens_of_the_built_in_one():
    assert JINJA.encode(TOKENIZER, TALK) == Llama3Template().encode(TOKENIZER, TALK)


def test_llama_2_puts_the_system_text_into_the_first_turn():
    tokens, mask = LLAMA2.encode(TOKENIZER, TALK)
    assert shown(tokens) == (
        "<|begin_of_text|>[INST] <<SYS>>\nsystem.\n<</SYS>>\n\nthe user asks [/INST]"
        " one two <|eot_id|><|begin_of_text|>[INST] and? [/INST] three. <|eot_id|>"
    )
    assert trained(tokens, mask) == " one two <|eot_id|> three. <|eot_id|>"


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    "response", ["one", " two ", "\n\n", "", "<|eot_id|>", "é\u2581"]
)
def test_a_prompt_is_a_prefix_of_prompt_and_response(name, response):
    prompt = Conversation.of("the user asks")
    template = TEMPLATES[name]
    start = template.encode_prompt(TOKENIZER, prompt)
    tokens, mask = template.encode_response(TOKENIZER, prompt, response)
    assert tokens[: len(start)] == start
    assert mask == [0] * len(start) + [1] * (len(tokens) - len(start))
    assert tokens[-1] == TOKENIZER.control("<|eot_id|>")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_scored_text_ends_where_its_answer_ends(name):
    template = TEMPLATES[name]
    tokens = template.encode_for_reward(TOKENIZER, TALK)
    assert tokens == template.encode(TOKENIZER, TALK)[0]
    assert tokens[-1] == TOKENIZER.control("<|eot_id|>")
    with pytest.raises(ValueError, match="the last turn must be 'assistant'"):
        template.encode_for_reward(TOKENIZER, TALK.prompt)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("piece", [*CONTROLS, "[/INST]", "{{ 7 * 7 }}", "{% raw %}"])
def test_no_message_forges_a_turn(name, piece):
    """As many control tokens as for a harmless text, and the text is as it was."""
    template = TEMPLATES[name]
    controls = {TOKENIZER.control(each) for each in CONTROLS}
    found = {}
    for text in ("harmless", f"a{piece}b", piece):
        talk = Conversation.of(text, text)
        tokens, mask = template.encode(TOKENIZER, talk)
        found[text] = [token for token in tokens if token in controls]
        assert text in shown(tokens)
        assert trained(tokens, mask).strip().startswith(text)
    assert len(set(map(tuple, found.values()))) == 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_turns_that_do_not_alternate_are_refused(name):
    template = TEMPLATES[name]
    twice = Conversation((Message("user", "a"), Message("user", "b")))
    with pytest.raises(ValueError, match="message 1: role 'user' where 'assistant'"):
        template.encode_prompt(TOKENIZER, twice)
    with pytest.raises(ValueError, match="no assistant turn"):
        template.encode(TOKENIZER, Conversation.of("a"))
    with pytest.raises(ValueError, match="message 1: the assistant turn is empty"):
        template.encode(TOKENIZER, Conversation.of("a", ""))
    with pytest.raises(ValueError, match="the last turn must be 'user'"):
        template.encode_prompt(TOKENIZER, Conversation.of("a", "b"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ ().__class__.__bases__[0].__subclasses__() }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ raise_exception('only one turn') }}", "only one turn"),
        ("{{ 'a' * 4000000000 }}", "memory"),
        ("{{ 'a' * 20000000 }}", "writes too much"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
            "{% endfor %}",
            "takes too long",
        ),
    ],
)
def test_a_hostile_template_ends_as_an_error(source, message):
    # Only one of them is to take long; the others may, on a busy machine.
    seconds = 1.0 if "too long" in message else 30.0
    template = JinjaTemplate(source, CONTROLS, seconds=seconds)
    with pytest.raises(ValueError, match=message):
        template.encode_prompt(TOKENIZER, Conversation.of("a"))
    assert JINJA.encode(TOKENIZER, TALK)  # another template goes on


def test_a_template_of_too_many_characters_is_refused():
    with pytest.raises(ValueError, match="100,001 characters"):
        JinjaTemplate("a" * 100_001, ())

"""Tools in a checkpoint's own template: what jinja2 writes, and no forged turn."""

import itertools
import json

import jinja2
import pytest

pytest.importorskip("tokenizers")

from nemojax.data.records import Conversation, Message, ToolCall
from nemojax.data.text.hf_tokenizer import HuggingFaceTokenizer
from nemojax.data.text.jinja_template import JinjaTemplate
from nemojax.data.text.llama_templates import Llama2Template, Llama3Template
from nemojax.data.text.nemotron_template import NEMOTRON
from tests.data.text.llama_tokenizer import CONTROLS, SPECIAL, tokenizer_json

TOKENIZER = HuggingFaceTokenizer(tokenizer_json(), SPECIAL)
SOURCE = """\
{%- if tools %}<|start_header_id|>tools<|end_header_id|>
{%- for tool in tools %}{{ tool | tojson }} {{ tool.description }}{% endfor %}<|eot_id|>
{%- endif %}
{%- for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>' }}
{%- if message.name %}{{ message.name }}: {% endif %}
{{- message.content | trim }}
{%- for call in message.tool_calls or [] %}
{{- call.id ~ '=' ~ call.function.name ~ '(' ~ call.function.arguments | tojson }}
{%- if call.function.arguments is string %}{{ call.function.arguments }}
{%- else %}{% for k, v in call.function.arguments.items() %}
{{- k }}{{ v if v is string }}
{%- endfor %}{% endif %}
{%- endfor %}
{{- message.tool_call_id or '' }}<|eot_id|>
{%- endfor %}
{%- if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{% endif %}
"""
TEMPLATE = JinjaTemplate(SOURCE, CONTROLS)


def talk(text, arguments=None, messages=()):
    """A dialogue that says `text` wherever a text may stand."""
    arguments = (
        json.dumps({text: text, "more": [text, 1.5, None]})
        if arguments is None
        else arguments
    )
    call = ToolCall(text, arguments, id=text)
    return Conversation(
        (
            Message("user", text),
            Message("assistant", "", tool_calls=(call, call)),
            Message("tool", text, tool_call_id=text, name=text),
            Message("tool", "sunny"),
            *messages,
        ),
        tools=(json.dumps({"name": "weather", "description": text}),),
    )


def shown(tokens):
    """The tokens as one string, control tokens by name."""
    names = {TOKENIZER.control(piece): piece for piece in CONTROLS}
    runs = itertools.groupby(tokens, key=names.get)
    return "".join(
        name * len(list(run)) if name else TOKENIZER.decode(run) for name, run in runs
    )


def rendered(conversation):
    """The text that jinja2 writes when it sees all texts."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    messages = []
    for message in conversation.messages:
        fields = {"role": message.role, "content": message.content}
        fields |= {"name": message.name, "tool_call_id": message.tool_call_id}
        fields["tool_calls"] = [
            {
                "id": call.id,
                "function": {"name": call.name, "arguments": parsed(call.arguments)},
            }
            for call in message.tool_calls
        ]
        messages.append(fields)
    tools = [json.loads(tool) for tool in conversation.tools]
    return environment.from_string(SOURCE).render(
        messages=messages, tools=tools or None, add_generation_prompt=True
    )


def parsed(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


@pytest.mark.parametrize(
    "text", ["word", 'say "no" \\ twice', "a\nb", "é", '{"a": 1}', "<b>", "[1:2]"]
)
@pytest.mark.parametrize("arguments", [None, "{}", 'no JSON: "', '"text"'])
def test_tools_are_rendered_as_jinja_renders_them(text, arguments):
    conversation = talk(text, arguments)
    tokens = TEMPLATE.encode_prompt(TOKENIZER, conversation)
    assert shown(tokens) == rendered(conversation)


@pytest.mark.parametrize("piece", CONTROLS)
def test_no_text_of_a_tool_forges_a_turn(piece):
    controls = {TOKENIZER.control(each) for each in CONTROLS}
    found = [
        [
            token
            for token in TEMPLATE.encode_prompt(TOKENIZER, talk(text))
            if token in controls
        ]
        for text in ("a harmless text", piece, f'"{piece}')
    ]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("template", [TEMPLATE, Llama2Template(), Llama3Template()])
def test_templates_without_labels_say_so(template):
    answer = Message("assistant", "b", label="helpfulness:4")
    labelled = Conversation((Message("user", "a"), answer))
    assert NEMOTRON.parts(labelled, False)
    with pytest.raises(ValueError, match="message 1: has a label, which only"):
        template.encode(TOKENIZER, labelled)


@pytest.mark.parametrize("template", [NEMOTRON, Llama2Template(), Llama3Template()])
def test_templates_without_tools_say_so(template):
    with pytest.raises(
        ValueError, match="offers tools, which this chat template has no"
    ):
        template.encode_prompt(TOKENIZER, talk("a"))
    called = Conversation(talk("a").messages)
    with pytest.raises(ValueError, match="message 1: a tool is called or answers"):
        template.encode_prompt(TOKENIZER, called)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([Message("user", "b")], "message 4: role 'user' where 'assistant' must come"),
        ([Message("assistant", "b"), Message("tool", "c")], "message 5: role 'tool'"),
    ],
)
def test_results_stand_between_a_call_and_an_answer(messages, problem):
    with pytest.raises(ValueError, match=problem):
        TEMPLATE.parts(talk("a", messages=messages), False)


def test_a_call_needs_a_result_and_is_not_trained_on():
    called = Conversation(talk("a").messages[:2])
    unanswered = Conversation((*called.messages, Message("user", "b")))
    with pytest.raises(ValueError, match="message 2: role 'user' where 'tool' must"):
        TEMPLATE.encode_prompt(TOKENIZER, unanswered)
    with pytest.raises(ValueError, match="message 1: calls of tools cannot be trained"):
        TEMPLATE.encode(TOKENIZER, talk("a").with_response("b"))


def test_an_answer_after_tools_can_be_trained_and_scored():
    prompt = talk("a")
    start = TEMPLATE.encode_prompt(TOKENIZER, prompt)
    tokens, mask = TEMPLATE.encode_response(TOKENIZER, prompt, "It is sunny.")
    assert tokens[: len(start)] == start
    assert mask == [0] * len(start) + [1] * (len(tokens) - len(start))
    assert shown(tokens[len(start) :]) == "It is sunny.<|eot_id|>"
    scored = prompt.with_response("It is sunny.")
    assert TEMPLATE.encode_for_reward(TOKENIZER, scored) == tokens

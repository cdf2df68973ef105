"""Bodies of requests: the first fault is enough, and it is named as the user did."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("starlette")

from nemojax.inference.server import bodies, protocol
from nemojax.inference.server.errors import ApiError

TURN = {"role": "user", "content": "a"}
BASE = {
    protocol.ChatRequest: {"model": "tiny", "messages": [TURN]},
    protocol.CompletionRequest: {"model": "tiny", "prompt": "a"},
    protocol.RewardRequest: {"model": "tiny", "messages": [[TURN]]},
    protocol.TokenizeRequest: {"prompt": "a"},
    protocol.DetokenizeRequest: {"tokens": [1]},
}
CHAT, WORD = protocol.ChatRequest, protocol.CompletionRequest
ANSWER = {"role": "assistant", "content": "b"}


def parsed(kind, **fields):
    """The request of a body, or the error of it."""
    content = json.dumps({**BASE[kind], **fields}).encode()
    return asyncio.run(bodies.parse(content, kind))


def refused(kind, **fields):
    with pytest.raises(ApiError) as found:
        parsed(kind, **fields)
    assert found.value.status == 400
    return found.value


MANY = 50_000


@pytest.mark.parametrize(
    ("kind", "fields", "param"),
    [
        (CHAT, {"messages": [{}] * MANY}, "messages.0.role"),
        (CHAT, {"messages": [TURN] * MANY}, "messages"),
        (CHAT, {"messages": [{**TURN, "content": [{}] * MANY}]}, "messages.0.content"),
        (CHAT, {"stop": [""] * MANY}, "stop.0"),
        (CHAT, {"tools": [{}] * MANY}, "tools"),
        (CHAT, {"logit_bias": dict.fromkeys(map(str, range(MANY)))}, "logit_bias"),
        (CHAT, dict.fromkeys(map(str, range(MANY)), 1), "0"),
        (
            CHAT,
            {"messages": [{**TURN, **dict.fromkeys("abc", 1)}] * MANY},
            "messages.0",
        ),
        (WORD, {"prompt": [-1] * MANY}, "prompt.0"),
        (WORD, {"prompt": [[]] * MANY}, "prompt.0"),
        (WORD, {"prompt": [[-1]] * MANY}, "prompt.0.0"),
        (WORD, {"prompt": [""] * MANY}, "prompt"),
        (protocol.RewardRequest, {"messages": [[]] * MANY}, "messages.0"),
        (protocol.RewardRequest, {"messages": [[{}] * MANY] * 2}, "messages.0.0.role"),
        (protocol.TokenizeRequest, {"messages": [{}] * MANY}, "messages.0.role"),
        (protocol.DetokenizeRequest, {"tokens": [-1] * MANY}, "tokens.0"),
    ],
)
def test_of_many_faults_few_are_looked_at(kind, fields, param):
    error = refused(kind, **fields)
    assert error.param and error.param.startswith(param)
    assert error.__cause__.error_count() < 10
    assert len(error.message) < 300


@pytest.mark.parametrize(
    ("kind", "fields", "param", "said"),
    [
        (CHAT, {"stop": 5}, "stop", "valid string"),
        (CHAT, {"stop": ""}, "stop", "at least 1 character"),
        (CHAT, {"stop": ["a", ""]}, "stop.1", "at least 1 character"),
        (WORD, {"prompt": 5}, "prompt", "valid string"),
        (WORD, {"prompt": []}, "prompt", "at least 1 item"),
        (WORD, {"prompt": ["a", 1]}, "prompt.1", "valid string"),
        (WORD, {"prompt": [3, -1]}, "prompt.1", "greater than or equal to 0"),
        (WORD, {"prompt": {}}, "prompt", "valid string"),
        (CHAT, {"messages": [{**TURN, "content": 5}]}, "messages.0.content", "string"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages.0.content", "required"),
        (CHAT, {"messages": [5]}, "messages.0", "object"),
        (CHAT, {"temperature": 3}, "temperature", "less than or equal to 2"),
        (CHAT, {"tools": [{}]}, "tools", "not supported"),
        (CHAT, {"functions": [{}]}, "functions", "not supported"),
        (CHAT, {"presence_penalty": 0.1}, "presence_penalty", "not supported"),
        (CHAT, {"frequency_penalty": -1}, "frequency_penalty", "not supported"),
        (CHAT, {"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        (WORD, {"suffix": "x"}, "suffix", "not supported"),
        (CHAT, {"{odd}": 1}, "{odd}", "not supported"),
        (CHAT, {"messages": [{**TURN, "audio": {}}]}, "messages.0.audio", "not supp"),
        (CHAT, {"max_tokens": 3, "max_completion_tokens": 5}, "max_tokens", "differ"),
    ],
)
def test_the_field_is_named_as_the_user_did(kind, fields, param, said):
    error = refused(kind, **fields)
    assert error.param == param and said in error.message


@pytest.mark.parametrize("content", [b"", b"{", b'{"model":"\\ud800"}'])
def test_what_is_no_json_is_said_to_be_none(content):
    with pytest.raises(ApiError, match="invalid JSON: "):
        asyncio.run(bodies.parse(content, CHAT))


NOTHING = st.dictionaries(
    st.sampled_from(
        ["annotations", "audio", "function_call", "tool_calls", "reasoning_content"]
    ),
    st.sampled_from([None, []]),
)


@settings(max_examples=50)
@given(kind=st.sampled_from(list(BASE)), extra=NOTHING)
def test_a_null_says_nothing(kind, extra):
    assert parsed(kind, functions=None, **extra) == parsed(kind)
    if kind is CHAT:
        talk = [TURN, ANSWER | {"refusal": None}, TURN]
        spoken = [TURN, ANSWER | extra, TURN]
        assert parsed(kind, messages=spoken) == parsed(kind, messages=talk)


def test_an_answer_of_the_clients_own_classes_goes_into_the_history():
    message = pytest.importorskip("openai.types.chat").ChatCompletionMessage(**ANSWER)
    plain = parsed(CHAT, messages=[TURN, ANSWER, TURN])
    for turn in (message.model_dump(), message.to_dict(), dict(message)):
        assert parsed(CHAT, messages=[TURN, turn, TURN]) == plain

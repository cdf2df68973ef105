"""Attribute values of conversations: POST /v1/rewards, and as a chat completion.

A reward model that is asked for a chat completion answers with the values of the
conversation, which ends with an assistant's turn: as text, `helpfulness:1.2,...`, and
as the "log-probs" of tokens that are named after the attributes. NVIDIA's service for
Nemotron-4-340B-Reward does so.
"""

from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from nemojax.inference.server import responses
from nemojax.inference.server.errors import ApiError, busy, too_long
from nemojax.inference.server.protocol import ChatMessage, ChatRequest, RewardRequest
from nemojax.inference.server.served import Served, unless_gone
from nemojax.inference.server.service import Busy


async def rewards(request: Request) -> Response:
    """Scores one conversation or several."""
    served: Served = request.app.state.served
    body = await served.body(request, RewardRequest)
    served.check_model(body.model)
    if served.rewards is None:
        raise ApiError(
            400,
            f"{served.model.name!r} is no reward model",
            param="model",
            code="no_reward_model",
        )
    tokens = [await _tokens(served, messages) for messages in body.conversations]
    values = await unless_gone(request, _score(served, tokens))
    data = [
        {"index": index, "object": "reward", "rewards": _named(served, row)}
        for index, row in enumerate(values)
    ]
    return JSONResponse(
        {
            "object": "list",
            "model": served.model.name,
            "data": data,
            "usage": responses.usage(tokens, 0),
        }
    )


async def scored_chat(request: Request, served: Served, body: ChatRequest) -> Response:
    """Formats a conversation's values as a chat completion."""
    if body.stream or (body.n or 1) > 1:
        raise ApiError(400, "a reward model gives one answer, and all of it at once")
    tokens = [await _tokens(served, body.messages)]
    (values,) = await unless_gone(request, _score(served, tokens))
    named = _named(served, values)
    content = [
        {
            "token": name,
            "logprob": value,
            "bytes": list(name.encode()),
            "top_logprobs": [],
        }
        for name, value in named.items()
    ]
    text = ",".join(f"{name}:{value}" for name, value in named.items())
    log_probs = {"content": content, "refusal": None}
    return JSONResponse(
        {
            **responses.frame("chat.completion", "chatcmpl", served.model.name),
            "choices": [responses.chat_choice(0, text, log_probs, "stop")],
            "usage": responses.usage(tokens, 0),
        }
    )


async def _tokens(served: Served, messages: list[ChatMessage]) -> list[int]:
    tokens = await served.encode_chat(messages, scored=True)
    if len(tokens) > served.max_length:
        raise too_long(
            f"a conversation has {len(tokens)} tokens, at most {served.max_length} "
            "are scored",
            "messages",
        )
    return tokens


async def _score(served: Served, tokens: list[list[int]]) -> np.ndarray:
    assert served.rewards is not None
    served.metrics.prompt_tokens.inc(sum(map(len, tokens)))
    try:
        return await served.rewards.score(list(tokens))
    except Busy as error:
        raise busy(error) from error


def _named(served: Served, values: Any) -> dict[str, float]:
    # What float32 holds and no more digits.
    return {
        name: float(f"{value:.6g}")
        for name, value in zip(served.attributes, values.tolist(), strict=True)
    }

"""POST /v1/chat/completions, for language models and reward models."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from nemojax.inference.server import responses
from nemojax.inference.server.protocol import ChatRequest
from nemojax.inference.server.responses import EventStream
from nemojax.inference.server.rewards import scored_chat
from nemojax.inference.server.served import Served
from nemojax.inference.text.output_text import OutputText, TextDelta


async def chat_completions(request: Request) -> Response:
    """Generates the next message of a conversation, or scores the conversation."""
    served: Served = request.app.state.served
    body = await served.body(request, ChatRequest)
    served.check_model(body.model)
    if served.rewards is not None:
        return await scored_chat(request, served, body)
    prompt = await served.encode_chat(body.messages)
    limit = body.max_completion_tokens or body.max_tokens
    if limit is None:
        room = served.max_length - len(prompt)
        limit = max(1, min(room, served.limits.default_max_tokens))
    sampling = served.sampling(body, limit, turn=True, top=body.top_logprobs or 0)
    n = body.n or 1
    ticket = served.submit([prompt], sampling, n)
    texts = [
        OutputText(
            served.model,
            body.stops,
            served.model.turn_closing,
            places=bool(body.logprobs),
        )
        for _ in range(n)
    ]
    form = _Form(served, body, prompt)
    if body.stream:
        return EventStream(ticket, form.chunks(served.deltas(ticket, texts)))
    outputs = await served.whole(request, ticket, texts)
    return JSONResponse(await asyncio.to_thread(form.whole, outputs))


class _Form:
    """Formats outputs as the objects of OpenAI's API."""

    def __init__(self, served: Served, body: ChatRequest, prompt: list[int]):
        self._model, self._body, self._prompt = served.model, body, prompt

    def _frame(self, kind: str) -> dict[str, Any]:
        return responses.frame(kind, "chatcmpl", self._model.name)

    def whole(self, outputs: Sequence[TextDelta]) -> dict[str, Any]:
        choices = [
            responses.chat_choice(
                index, output.text, self._log_probs(output), output.finish_reason
            )
            for index, output in enumerate(outputs)
        ]
        usage = responses.usage([self._prompt], responses.completion_tokens(outputs))
        return {**self._frame("chat.completion"), "choices": choices, "usage": usage}

    async def chunks(
        self, deltas: AsyncIterator[tuple[int, TextDelta]]
    ) -> AsyncIterator[dict[str, Any]]:
        frame = self._frame("chat.completion.chunk")
        begun: set[int] = set()
        generated = 0
        async for index, delta in deltas:
            message: dict[str, Any] = {"content": delta.text}
            if index not in begun:
                begun.add(index)
                message = {"role": "assistant", **message}
            generated += len(delta.scores.tokens)
            choice = {
                "index": index,
                "delta": message,
                "logprobs": self._log_probs(delta),
                "finish_reason": delta.finish_reason,
            }
            yield {**frame, "choices": [choice]}
        options = self._body.stream_options
        if options is not None and options.include_usage:
            usage = responses.usage([self._prompt], generated)
            yield {**frame, "choices": [], "usage": usage}

    def _log_probs(self, delta: TextDelta) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        count = self._body.top_logprobs or 0
        return responses.chat_log_probs(self._model, delta, count)

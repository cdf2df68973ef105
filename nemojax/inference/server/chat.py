"""POST /v1/chat/completions, of models that answer and of models that judge."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from nemojax.inference.server import responses
from nemojax.inference.server.protocol import ChatRequest
from nemojax.inference.server.responses import EventStream
from nemojax.inference.server.rewards import judged
from nemojax.inference.server.served import Served
from nemojax.inference.text.answer_text import AnswerText, Piece


async def chat_completions(request: Request) -> Response:
    """The next turn of a conversation."""
    served: Served = request.app.state.served
    body = await served.body(request, ChatRequest)
    served.check_model(body.model)
    if served.rewards is not None:
        return await judged(request, served, body)
    prompt = await served.encode_chat(body.messages)
    limit = body.max_completion_tokens or body.max_tokens
    if limit is None:
        room = served.max_length - len(prompt)
        limit = max(1, min(room, served.limits.default_max_tokens))
    how = served.sampling(body, limit, turn=True, top=body.top_logprobs or 0)
    n = body.n or 1
    ticket = served.submit([prompt], how, n)
    texts = [
        AnswerText(served.model, body.stops, served.model.turn_closing)
        for _ in range(n)
    ]
    form = _Form(served, body, prompt)
    if body.stream:
        return EventStream(ticket, form.chunks(served.pieces(ticket, texts)))
    answers = await served.whole(request, ticket, texts)
    return JSONResponse(form.whole(answers))


class _Form:
    """Answers as the objects of OpenAI's API."""

    def __init__(self, served: Served, body: ChatRequest, prompt: list[int]):
        self._model, self._body, self._prompt = served.model, body, prompt

    def _frame(self, kind: str) -> dict[str, Any]:
        return responses.frame(kind, "chatcmpl", self._model.name)

    def whole(self, answers: Sequence[Piece]) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": answer.text,
                    "refusal": None,
                },
                "logprobs": self._log_probs(answer),
                "finish_reason": answer.finish,
            }
            for index, answer in enumerate(answers)
        ]
        usage = responses.usage([self._prompt], responses.written(answers))
        return {**self._frame("chat.completion"), "choices": choices, "usage": usage}

    async def chunks(
        self, pieces: AsyncIterator[tuple[int, Piece]]
    ) -> AsyncIterator[dict[str, Any]]:
        frame = self._frame("chat.completion.chunk")
        begun: set[int] = set()
        written = 0
        async for index, piece in pieces:
            delta: dict[str, Any] = {"content": piece.text}
            if index not in begun:
                begun.add(index)
                delta = {"role": "assistant", **delta}
            written += len(piece.scored.tokens)
            choice = {
                "index": index,
                "delta": delta,
                "logprobs": self._log_probs(piece),
                "finish_reason": piece.finish,
            }
            yield {**frame, "choices": [choice]}
        options = self._body.stream_options
        if options is not None and options.include_usage:
            usage = responses.usage([self._prompt], written)
            yield {**frame, "choices": [], "usage": usage}

    def _log_probs(self, piece: Piece) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        count = self._body.top_logprobs or 0
        return responses.chat_log_probs(self._model, piece.scored, count)

"""POST /v1/completions."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from nemojax.inference.engine.answers import LENGTH, Scored
from nemojax.inference.server import responses
from nemojax.inference.server.protocol import CompletionRequest
from nemojax.inference.server.responses import EventStream
from nemojax.inference.server.served import Served
from nemojax.inference.text.answer_text import AnswerText, Piece

_DEFAULT_TOKENS = 16  # OpenAI's


async def completions(request: Request) -> Response:
    """Completes prompts, given as texts or as tokens."""
    served: Served = request.app.state.served
    body = await served.body(request, CompletionRequest)
    served.check_model(body.model)
    served.answering()
    prompts = [
        served.encode(prompt, "prompt") if isinstance(prompt, str) else prompt
        for prompt in body.prompts
    ]
    wanted = _DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
    how = served.sampling(
        body,
        max(wanted, 1),
        turn=False,
        top=body.logprobs or 0,
        prompt_log_probs=bool(body.echo) and body.logprobs is not None,
    )
    n = body.n or 1
    ticket = served.submit(prompts, how, n)
    texts = [AnswerText(served.model, body.stops) for _ in range(n * len(prompts))]
    form = _Form(served, body, prompts, no_answer=wanted == 0)
    if body.stream:
        return EventStream(ticket, form.chunks(served.pieces(ticket, texts)))
    answers = await served.whole(request, ticket, texts)
    return JSONResponse(form.whole(answers))


class _Form:
    """Answers as the objects of OpenAI's API."""

    def __init__(
        self,
        served: Served,
        body: CompletionRequest,
        prompts: Sequence[list[int]],
        no_answer: bool,
    ):
        self._model, self._body, self._prompts = served.model, body, prompts
        self._no_answer = no_answer
        self._frame = responses.frame("text_completion", "cmpl", served.model.name)

    def whole(self, answers: Sequence[Piece]) -> dict[str, Any]:
        choices = [
            self._choice(index, answer, "", first=True)
            for index, answer in enumerate(answers)
        ]
        written = 0 if self._no_answer else responses.written(answers)
        usage = responses.usage(self._prompts, written)
        return {**self._frame, "choices": choices, "usage": usage}

    async def chunks(
        self, pieces: AsyncIterator[tuple[int, Piece]]
    ) -> AsyncIterator[dict[str, Any]]:
        before: dict[int, str] = {}
        written = 0
        async for index, piece in pieces:
            choice = self._choice(
                index, piece, before.get(index, ""), first=index not in before
            )
            before[index] = before.get(index, "") + choice["text"]
            written += len(piece.scored.tokens)
            yield {**self._frame, "choices": [choice]}
        options = self._body.stream_options
        if options is not None and options.include_usage:
            usage = responses.usage(self._prompts, 0 if self._no_answer else written)
            yield {**self._frame, "choices": [], "usage": usage}

    def _choice(
        self, index: int, piece: Piece, before: str, *, first: bool
    ) -> dict[str, Any]:
        """An answer, or a piece of it that comes after the text `before`."""
        number = index // (self._body.n or 1)
        prompt, scored, text = self._prompts[number], piece.scored, piece.text
        finish = piece.finish
        if self._no_answer:
            scored, text, finish = Scored(), "", LENGTH
        opens = bool(self._body.echo) and first
        if opens:
            given = self._body.prompts[number]
            before_it = given if isinstance(given, str) else self._model.decode(given)
            text = before_it + text
        log_probs = None
        if self._body.logprobs is not None:
            told = Scored()
            if opens and piece.prompt is not None:
                told.extend(piece.prompt)
            told.extend(scored)
            log_probs = responses.log_probs(
                self._model,
                told,
                self._body.logprobs,
                len(before),
                prompt[0] if opens else None,
            )
        return {
            "index": index,
            "text": text,
            "logprobs": log_probs,
            "finish_reason": finish,
        }

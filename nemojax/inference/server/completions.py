"""POST /v1/completions."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from nemojax.inference.engine.outputs import LENGTH, TokenScores
from nemojax.inference.server import responses
from nemojax.inference.server.protocol import CompletionRequest
from nemojax.inference.server.responses import EventStream
from nemojax.inference.server.served import Served
from nemojax.inference.text import text_stream
from nemojax.inference.text.output_text import OutputText, TextDelta

_DEFAULT_TOKENS = 16  # OpenAI's


async def completions(request: Request) -> Response:
    """Completes prompts, given as texts or as tokens."""
    served: Served = request.app.state.served
    body = await served.body(request, CompletionRequest)
    served.check_model(body.model)
    served.language_service()
    prompts = [
        await served.encode(prompt, "prompt") if isinstance(prompt, str) else prompt
        for prompt in body.prompts
    ]
    wanted = _DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
    sampling = served.sampling(
        body,
        max(wanted, 1),
        turn=False,
        top=body.logprobs or 0,
        prompt_log_probs=bool(body.echo) and body.logprobs is not None,
    )
    n = body.n or 1
    ticket = served.submit(prompts, sampling, n)
    texts = [
        OutputText(
            served.model, body.stops, before=prompt, places=body.logprobs is not None
        )
        for prompt in prompts
        for _ in range(n)
    ]
    form = _Form(served, body, prompts, no_output=wanted == 0)
    if body.stream:
        return EventStream(ticket, form.chunks(served.deltas(ticket, texts)))
    outputs = await served.whole(request, ticket, texts)
    return JSONResponse(await asyncio.to_thread(form.whole, outputs))


class _Form:
    """Formats outputs as the objects of OpenAI's API."""

    def __init__(
        self,
        served: Served,
        body: CompletionRequest,
        prompts: Sequence[list[int]],
        no_output: bool,
    ):
        self._model, self._body, self._prompts = served.model, body, prompts
        self._no_output = no_output
        self._prompt_scores: dict[int, TokenScores] = {}
        self._echoes = [
            (one if isinstance(one, str) else self._model.decode(one))
            if body.echo
            else ""
            for one in body.prompts
        ]
        self._frame = responses.frame("text_completion", "cmpl", served.model.name)

    def whole(self, outputs: Sequence[TextDelta]) -> dict[str, Any]:
        choices = [
            self._choice(index, output, first=True)
            for index, output in enumerate(outputs)
        ]
        generated = 0 if self._no_output else responses.completion_tokens(outputs)
        usage = responses.usage(self._prompts, generated)
        return {**self._frame, "choices": choices, "usage": usage}

    async def chunks(
        self, deltas: AsyncIterator[tuple[int, TextDelta]]
    ) -> AsyncIterator[dict[str, Any]]:
        begun: set[int] = set()
        generated = 0
        async for index, delta in deltas:
            choice = self._choice(index, delta, first=index not in begun)
            begun.add(index)
            generated += len(delta.scores.tokens)
            yield {**self._frame, "choices": [choice]}
        options = self._body.stream_options
        if options is not None and options.include_usage:
            usage = responses.usage(self._prompts, 0 if self._no_output else generated)
            yield {**self._frame, "choices": [], "usage": usage}

    def _choice(self, index: int, delta: TextDelta, *, first: bool) -> dict[str, Any]:
        """Formats an output, or a part of it; says whether it is the `first`."""
        number = index // (self._body.n or 1)
        echo = self._echoes[number]
        if self._no_output:
            delta = TextDelta(finish_reason=LENGTH, prompt=delta.prompt)
        log_probs = None
        if self._body.logprobs is not None:
            offsets = [len(echo) + place.offset for place in delta.places]
            opening = None
            scores = delta.scores
            if delta.prompt is not None:  # comes with the first output of a prompt
                self._prompt_scores[number] = delta.prompt
            if first and number in self._prompt_scores:
                prompt = self._prompts[number]
                offsets = [*text_stream.offsets(self._model, prompt), *offsets]
                opening, scores = prompt[0], TokenScores()
                scores.extend(self._prompt_scores[number])
                scores.extend(delta.scores)
            log_probs = responses.log_probs(
                self._model, scores, self._body.logprobs, offsets, opening
            )
        return {
            "index": index,
            "text": (echo if first else "") + delta.text,
            "logprobs": log_probs,
            "finish_reason": delta.finish_reason,
        }

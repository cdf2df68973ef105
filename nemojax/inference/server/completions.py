"""POST /v1/completions."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from nemojax.inference.engine.outputs import LENGTH, TokenScores
from nemojax.inference.server import responses
from nemojax.inference.server.protocol import CompletionRequest
from nemojax.inference.server.responses import EventStream
from nemojax.inference.server.served import Served
from nemojax.inference.text.output_text import OutputText, TextDelta

_DEFAULT_TOKENS = 16  # OpenAI's


async def completions(request: Request) -> Response:
    """Completes prompts, given as texts or as tokens."""
    served: Served = request.app.state.served
    body = await served.body(request, CompletionRequest)
    served.check_model(body.model)
    served.language_service()
    prompts = [
        served.encode(prompt, "prompt") if isinstance(prompt, str) else prompt
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
    texts = [OutputText(served.model, body.stops) for _ in range(n * len(prompts))]
    form = _Form(served, body, prompts, no_output=wanted == 0)
    if body.stream:
        return EventStream(ticket, form.chunks(served.deltas(ticket, texts)))
    outputs = await served.whole(request, ticket, texts)
    return JSONResponse(form.whole(outputs))


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
        self._frame = responses.frame("text_completion", "cmpl", served.model.name)

    def whole(self, outputs: Sequence[TextDelta]) -> dict[str, Any]:
        choices = [
            self._choice(index, output, "", first=True)
            for index, output in enumerate(outputs)
        ]
        generated = 0 if self._no_output else responses.completion_tokens(outputs)
        usage = responses.usage(self._prompts, generated)
        return {**self._frame, "choices": choices, "usage": usage}

    async def chunks(
        self, deltas: AsyncIterator[tuple[int, TextDelta]]
    ) -> AsyncIterator[dict[str, Any]]:
        before: dict[int, str] = {}
        generated = 0
        async for index, delta in deltas:
            choice = self._choice(
                index, delta, before.get(index, ""), first=index not in before
            )
            before[index] = before.get(index, "") + choice["text"]
            generated += len(delta.scores.tokens)
            yield {**self._frame, "choices": [choice]}
        options = self._body.stream_options
        if options is not None and options.include_usage:
            usage = responses.usage(self._prompts, 0 if self._no_output else generated)
            yield {**self._frame, "choices": [], "usage": usage}

    def _choice(
        self, index: int, delta: TextDelta, before: str, *, first: bool
    ) -> dict[str, Any]:
        """Formats an output, or a delta that comes after the text `before`."""
        number = index // (self._body.n or 1)
        prompt, scores, text = self._prompts[number], delta.scores, delta.text
        finish = delta.finish_reason
        if self._no_output:
            scores, text, finish = TokenScores(), "", LENGTH
        opens = bool(self._body.echo) and first
        if opens:
            given = self._body.prompts[number]
            before_it = given if isinstance(given, str) else self._model.decode(given)
            text = before_it + text
        log_probs = None
        if self._body.logprobs is not None:
            reported = TokenScores()
            if opens and delta.prompt is not None:
                reported.extend(delta.prompt)
            reported.extend(scores)
            log_probs = responses.log_probs(
                self._model,
                reported,
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

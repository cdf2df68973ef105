"""Parts of responses that both kinds of completions have."""

import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from nemojax.inference.engine.outputs import TokenScores
from nemojax.inference.server.errors import ApiError
from nemojax.inference.server.service import Ticket
from nemojax.inference.text.output_text import TextDelta
from nemojax.interop.loading import LoadedModel


class EventStream(StreamingResponse):
    """Server-sent events; cancels the outputs when the client goes away."""

    def __init__(self, ticket: Ticket, objects: AsyncIterator[dict[str, Any]]):
        super().__init__(_events(objects), media_type="text/event-stream")
        self.headers["Cache-Control"] = "no-store"
        self._ticket = ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            # The iteration may not even have begun.
            self._ticket.close()


async def _events(objects: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    try:
        async for found in objects:
            yield _event(json.dumps(found))
    except ApiError as error:  # the status has been sent already
        yield _event(json.dumps(error.body))
    yield _event("[DONE]")


def _event(data: str) -> bytes:
    return f"data: {data}\n\n".encode()


def frame(kind: str, prefix: str, model: str) -> dict[str, Any]:
    """Returns the fields that every object of a response begins with."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def usage(prompts: Sequence[Sequence[int]], generated: int) -> dict[str, int]:
    """Formats the numbers of prompt and output tokens."""
    prompt_tokens = sum(map(len, prompts))
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": prompt_tokens + generated,
    }


def completion_tokens(outputs: Sequence[TextDelta]) -> int:
    """Counts the tokens of outputs."""
    return sum(len(output.scores.tokens) for output in outputs)


def log_probs(
    model: LoadedModel,
    scores: TokenScores,
    count: int,
    offsets: Sequence[int],
    first: int | None,
) -> dict[str, Any]:
    """Formats the object `logprobs` of a completion.

    Args:
      model: names the tokens.
      scores: the tokens.
      count: number of alternatives; a token that was chosen is named beside them.
      offsets: characters of the text before each token, `first` too.
      first: a token before these that nothing comes before; None: there is none.
    """
    names = model.token_names
    tokens = [names[token] for token in scores.tokens]
    tops: list[dict[str, float] | None] = []
    for token, value, top in zip(tokens, scores.log_probs, scores.top, strict=True):
        found = {names[other]: log_prob for other, log_prob in top[:count]}
        # The same number to the last bit, so that it can be told whether it is the
        # likeliest.
        tops.append({**found, token: value} if count else None)
    values: list[float | None] = list(scores.log_probs)
    if first is not None:
        tokens.insert(0, names[first])
        values.insert(0, None)
        tops.insert(0, None)
    return {
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": tops if count else None,
        "text_offset": list(offsets),
    }


def chat_choice(
    index: int, text: str, log_probs: Any, finish_reason: str | None
) -> dict[str, Any]:
    """Formats an answer of a chat completion."""
    return {
        "index": index,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": log_probs,
        "finish_reason": finish_reason,
    }


def chat_log_probs(model: LoadedModel, delta: TextDelta, count: int) -> dict[str, Any]:
    """Formats the object `logprobs` of a chat completion, with `count` alternatives."""
    scores = delta.scores
    names = model.token_names

    def entry(token: int, log_prob: float, first: bool) -> dict[str, Any]:
        written = list(model.token_bytes(token, first=first))
        return {"token": names[token], "logprob": log_prob, "bytes": written}

    content = []
    for token, value, top, (_, first) in zip(
        scores.tokens, scores.log_probs, scores.top, delta.places, strict=True
    ):
        others = [entry(*other, first) for other in top[:count]]
        content.append({**entry(token, value, first), "top_logprobs": others})
    return {"content": content, "refusal": None}

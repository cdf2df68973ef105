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
    model: LoadedModel, scores: TokenScores, count: int, offset: int, first: int | None
) -> dict[str, Any]:
    """Formats the object `logprobs` of a completion.

    Args:
      model: names the tokens.
      scores: the tokens.
      count: number of alternatives; a token that was chosen is named beside them.
      offset: characters of the text before.
      first: a token before these that nothing comes before; None: there is none.
    """
    tokens = [_name(model, token) for token in scores.tokens]
    tops: list[dict[str, float] | None] = []
    for token, value, top in zip(tokens, scores.log_probs, scores.top, strict=True):
        found = {_name(model, other): log_prob for other, log_prob in top[:count]}
        # The same number to the last bit, so that it can be told whether it is the
        # likeliest.
        tops.append({**found, token: value} if count else None)
    values: list[float | None] = list(scores.log_probs)
    if first is not None:
        tokens.insert(0, _name(model, first))
        values.insert(0, None)
        tops.insert(0, None)
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": tops if count else None,
        "text_offset": offsets,
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


def chat_log_probs(
    model: LoadedModel, scores: TokenScores, count: int
) -> dict[str, Any]:
    """Formats the object `logprobs` of a chat completion."""

    def entry(token: int, log_prob: float) -> dict[str, Any]:
        name = _name(model, token)
        return {"token": name, "logprob": log_prob, "bytes": list(name.encode())}

    content = []
    for token, value, top in zip(
        scores.tokens, scores.log_probs, scores.top, strict=True
    ):
        others = [entry(*other) for other in top[:count]]
        content.append({**entry(token, value), "top_logprobs": others})
    return {"content": content, "refusal": None}


def _name(model: LoadedModel, token: int) -> str:
    """Returns a token's text; ids that only round the vocabulary up have a number."""
    if token < model.tokenizer.vocab_size:
        return model.tokenizer.piece_text(token)
    return f"<{token}>"

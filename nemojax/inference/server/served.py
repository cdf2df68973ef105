"""State that all handlers share: the model, the engine, the limits, the counters."""

import asyncio
import dataclasses
import itertools
import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import Request

from nemojax.data.records import Conversation, Message
from nemojax.inference.engine.outputs import TokenScores
from nemojax.inference.engine.sampling import Sampling
from nemojax.inference.server import bodies, errors, protocol
from nemojax.inference.server.errors import ApiError
from nemojax.inference.server.metrics import Metrics
from nemojax.inference.server.reward_queue import RewardQueue
from nemojax.inference.server.service import Busy, Failed, Service, Ticket
from nemojax.inference.text.output_text import OutputText, TextDelta
from nemojax.interop.loading import LoadedModel

Body = TypeVar("Body", bound=BaseModel)
Result = TypeVar("Result")
# Text of so many bytes a token is refused before it is encoded.
_BYTES_A_TOKEN = 64


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a request.

    Attributes:
      body_bytes: most bytes of a request.
      body_seconds: until all of a request has come.
      default_max_tokens: most tokens of a chat completion whose request names no limit.
    """

    body_bytes: int = 4 * 2**20
    body_seconds: float = 30.0
    default_max_tokens: int = 1024


@dataclasses.dataclass
class Served:
    """A model with the services that generate or score with it.

    Attributes:
      model: model with its tokenizer and template.
      service: generates; None for a reward model.
      rewards: scores; None for a language model.
      attributes: names of the reward model's values.
      max_length: tokens of a prompt with its output, or of a scored conversation.
      limits: limits of requests.
      metrics: counters of the server.
      created: seconds since 1970.
    """

    model: LoadedModel
    service: Service | None
    rewards: RewardQueue | None
    attributes: Sequence[str]
    max_length: int
    limits: Limits
    metrics: Metrics
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))
    _rendering: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)

    async def body(self, request: Request, kind: type[Body]) -> Body:
        """Reads and validates a request; raises ApiError for a bad one."""
        limits = self.limits
        content = await bodies.read(request, limits.body_bytes, limits.body_seconds)
        return await bodies.parse(content, kind)

    def check_model(self, name: str | None) -> None:
        """Raises ApiError for another model than the one that is served."""
        if name is not None and name != self.model.name:
            raise ApiError(
                404,
                f"there is no model {name!r}; {self.model.name!r} is served",
                param="model",
                code="model_not_found",
            )

    async def encode(self, text: str, param: str, *, prefix: bool = True) -> list[int]:
        """Encodes a text, whatever control tokens it may seem to name.

        `prefix` says whether those that begin every text of this model come first.

        Raises:
          ApiError: it is far too long, or cannot be encoded.
        """
        self._check_size(len(text.encode()), param)
        tokenizer = self.model.tokenizer
        try:
            tokens = await asyncio.to_thread(tokenizer.encode, text)
        except ValueError as error:
            raise ApiError(400, f"{param}: {error}", param=param) from error
        return [*(tokenizer.prefix if prefix else ()), *tokens]

    async def encode_chat(
        self, messages: Sequence[protocol.ChatMessage], *, scored: bool = False
    ) -> list[int]:
        """Encodes a conversation, up to its next message or to be scored.

        Raises:
          ApiError: there is no template, or the conversation does not fit it.
        """
        template = self.model.template
        if template is None:
            raise ApiError(
                400,
                f"{self.model.name!r} has no chat template; use /v1/completions",
                param="messages",
                code="no_chat_template",
            )
        self._check_size(sum(len(m.text.encode()) for m in messages), "messages")
        turns = []
        for message in messages:
            role = "system" if message.role == "developer" else message.role
            turns.append(Message(role, message.text))
        conversation, tokenizer = Conversation(tuple(turns)), self.model.tokenizer
        encode = template.encode_for_reward if scored else template.encode_prompt
        try:
            # A checkpoint's own template runs in a process, one text at a time.
            async with self._rendering:
                return await asyncio.to_thread(encode, tokenizer, conversation)
        except ValueError as error:
            raise ApiError(400, f"messages: {error}", param="messages") from error

    def _check_size(self, size: int, param: str) -> None:
        limit = _BYTES_A_TOKEN * self.max_length
        if size > limit:
            text = f"{param}: a text of {size:,} bytes is longer than any context here"
            raise errors.too_long(text, param)

    def sampling(self, body: Any, max_tokens: int, *, turn: bool, **more) -> Sampling:
        """Returns the sampling settings of a request."""
        top_k = body.top_k or 0
        stop_ids = self.model.turn_stop_ids if turn else self.model.stop_ids
        return Sampling(
            temperature=1.0 if body.temperature is None else body.temperature,
            top_k=max(top_k, 0),
            top_p=1.0 if body.top_p is None else max(body.top_p, 1e-9),
            min_p=body.min_p or 0.0,
            repetition_penalty=body.repetition_penalty or 1.0,
            seed=secrets.randbits(32) if body.seed is None else body.seed,
            max_tokens=max_tokens,
            stop_ids=stop_ids,
            **more,
        )

    def language_service(self) -> Service:
        """Returns the service that generates; raises ApiError of a reward model."""
        if self.service is None:
            raise ApiError(
                400,
                f"{self.model.name!r} is a reward model; use /v1/rewards or "
                "/v1/chat/completions",
                param="model",
                code="reward_model",
            )
        return self.service

    def submit(
        self, prompts: Sequence[list[int]], sampling: Sampling, n: int
    ) -> Ticket:
        """Starts generating; raises ApiError where there is no room for the outputs."""
        service, room = self.language_service(), self.max_length
        for index, prompt in enumerate(prompts):
            which = f"prompt {index}" if len(prompts) > 1 else "the prompt"
            if len(prompt) + sampling.max_tokens > room:
                raise errors.too_long(
                    f"the context has room for {room} tokens; {which} has "
                    f"{len(prompt)} and the answer may have {sampling.max_tokens}",
                    "max_tokens" if len(prompt) < room else "prompt",
                )
        if n * len(prompts) > service.capacity:
            raise ApiError(
                400,
                f"{n * len(prompts)} answers in one request; at most "
                f"{service.capacity} are taken",
                param="n",
            )
        try:
            ticket = service.submit(prompts, sampling, n)
        except ValueError as error:
            raise ApiError(400, str(error), param="prompt") from error
        except Busy as error:
            raise errors.busy(error) from error
        except Failed as error:
            raise ApiError(503, str(error), code="engine_failed") from error
        self.metrics.prompt_tokens.inc(sum(map(len, prompts)))
        return ticket

    async def deltas(
        self, ticket: Ticket, texts: Sequence[OutputText]
    ) -> AsyncIterator[tuple[int, TextDelta]]:
        """Yields (index of the output, its new text) until all have ended, counted.

        Outputs that have not ended are cancelled when the iteration is closed.
        """
        start, first = time.monotonic(), True
        try:
            async for index, delta in ticket:
                for scores in (delta.new, delta.prompt or TokenScores()):
                    _check_finite(scores)
                text = texts[index].take(delta)
                if text.finish_reason and not delta.finish_reason:
                    ticket.give_up(index)
                if first:
                    self.metrics.first_token.observe(time.monotonic() - start)
                    first = False
                self.metrics.answer_tokens.inc(len(text.scores.tokens))
                yield index, text
        except Failed as error:
            raise ApiError(503, str(error), code="engine_failed") from error
        finally:
            self.metrics.given_up.inc(ticket.left)
            ticket.close()

    async def whole(
        self, request: Request, ticket: Ticket, texts: Sequence[OutputText]
    ) -> list[TextDelta]:
        """Returns all outputs when they have ended, unless the client goes away."""

        async def collect() -> list[TextDelta]:
            found = [TextDelta() for _ in texts]
            async for index, delta in self.deltas(ticket, texts):
                found[index].extend(delta)
            return found

        try:
            return await unless_gone(request, collect())
        finally:
            ticket.close()


def _check_finite(scores: TokenScores) -> None:
    alternatives = (value for top in scores.top for _, value in top)
    if not all(map(math.isfinite, itertools.chain(scores.log_probs, alternatives))):
        raise ApiError(
            500,
            "the model's log-probs are no numbers: its weights are damaged, or too "
            "large for its dtype",
            code="not_finite",
        )


async def unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """Awaits some work; it is cancelled when the client goes away.

    Raises:
      ApiError: the client has gone.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise errors.client_gone()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""Continuous batching: requests come and go while others are being decoded."""

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from nemojax.errors import UserError
from nemojax.inference.engine import config as configs
from nemojax.inference.engine import paged
from nemojax.inference.engine.config import EngineConfig
from nemojax.inference.engine.outputs import (
    CANCELLED,
    LENGTH,
    STOP,
    Completion,
    Load,
    TokenDelta,
    TokenScores,
    token_scores,
)
from nemojax.inference.engine.paged_state import PromptLogProbs, StepOutput, TopTokens
from nemojax.inference.engine.sampling import Sampling
from nemojax.inference.engine.scheduler import Prefill, QueuedRequest, Scheduler
from nemojax.interop.loading import LoadedModel
from nemojax.models.config import ModelConfig

# Share of the slots that still generate when `stream` fills the others again.
_REFILL = 0.5


@dataclasses.dataclass(frozen=True)
class _Call:
    """A device call whose output the host has not read yet.

    Attributes:
      output: output of the call.
      requests: requests by column of the output.
      prefill: the call, where it also computes log-probs of prompts.
      log_probs: log-probs of the prompt's tokens.
    """

    output: StepOutput
    requests: dict[int, QueuedRequest]
    prefill: Prefill | None = None
    log_probs: PromptLogProbs | None = None


class Engine:
    """Generates for many requests at a time. Not for several threads at once."""

    def __init__(
        self,
        config: ModelConfig,
        params: Any,
        mesh: Mesh,
        engine_config: EngineConfig,
        stop_ids: Sequence[int] = (),
    ):
        """Copies the parameters to where the engine uses them.

        Args:
          config: sizes of the model.
          params: parameters as `models.forward.init` makes them.
          mesh: `data` and `tensor`; `pipe` has to be 1.
          engine_config: static shapes.
          stop_ids: tokens that end every output.

        Raises:
          UserError: shapes that the mesh does not divide, or no memory for a cache.
        """
        self._stop_ids, self._vocab_size = tuple(stop_ids), config.vocab_size
        self._programs = paged.Programs(config, params, mesh, engine_config)
        self.config = engine_config = self._programs.engine
        self._state = self._programs.start()
        self._scheduler = Scheduler(engine_config, mesh.shape["data"])
        self._requests: dict[int, QueuedRequest] = {}
        self._cancelled: list[QueuedRequest] = []
        self._pending: list[_Call] = []
        self._next = 0

    @classmethod
    def from_model(
        cls, model: LoadedModel, config: EngineConfig | None = None
    ) -> "Engine":
        """Makes an engine for a loaded model; both keep the parameters.

        Args:
          model: a language model; its stop tokens end every output.
          config: static shapes; default: 32 slots of 4,096 tokens.

        Raises:
          UserError: shapes that the mesh does not divide.
        """
        data = model.mesh.shape["data"]
        config = config or configs.serving(32 * data, 4096, data=data)
        return cls(model.config, model.params, model.mesh, config, model.stop_ids)

    @property
    def busy(self) -> bool:
        """True while `step` still has something to do or to report."""
        return bool(self._requests or self._cancelled or self._pending)

    @property
    def load(self) -> Load:
        """Numbers that say how busy the engine is now."""
        return self._scheduler.load

    @property
    def room(self) -> int:
        """Tokens that a prompt and its output may have together."""
        return self.config.room

    def submit(
        self, prompt: Sequence[int], sampling: Sampling, n: int = 1
    ) -> list[int]:
        """Takes a prompt of which n outputs are wanted; returns their numbers.

        Output i is that of a request of its own with `seed + i`. The log-probs of the
        prompt come with the first output.

        Raises:
          UserError: see `check`.
        """
        self.check(prompt, sampling)
        leader: QueuedRequest | None = None
        numbers: list[int] = []
        for index in range(n):
            own = sampling
            if index:
                own = dataclasses.replace(
                    sampling, seed=sampling.seed + index, prompt_log_probs=False
                )
            request = self._add(prompt, own, leader)
            leader = leader or request
            numbers.append(request.number)
        return numbers

    def _add(
        self, prompt: Sequence[int], sampling: Sampling, leader: QueuedRequest | None
    ) -> QueuedRequest:
        if not {*self._stop_ids} <= {*sampling.stop_ids}:
            stop_ids = tuple({*sampling.stop_ids, *self._stop_ids})
            sampling = dataclasses.replace(sampling, stop_ids=stop_ids)
        request = QueuedRequest(self._next, list(prompt), sampling, leader)
        self._next += 1
        self._requests[request.number] = request
        self._scheduler.add(request)
        return request

    def check(self, prompt: Sequence[int], sampling: Sampling) -> None:
        """Checks a request; any thread may call it.

        Raises:
          UserError: a prompt without tokens, with tokens that the model does not have,
            or that leaves too little room.
        """
        if not prompt:
            raise UserError("the prompt has no tokens")
        bad = next((t for t in (min(prompt), max(prompt)) if not self._knows(t)), None)
        if bad is not None:
            raise UserError(
                f"the prompt has the token id {bad}; the model has 0 to "
                f"{self._vocab_size - 1}"
            )
        if len(prompt) + sampling.max_tokens > self.room:
            raise UserError(
                f"the prompt has {len(prompt)} tokens and the answer may have "
                f"{sampling.max_tokens}: together at most {self.room}"
            )

    def _knows(self, token: int) -> bool:
        return 0 <= token < self._vocab_size

    def cancel(self, number: int) -> None:
        """Ends a request; one that has ended already is left alone."""
        request = self._requests.get(number)
        if request is not None:
            self._end(request, CANCELLED)
            self._cancelled.append(request)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling]
    ) -> list[Completion]:
        """Generates one output for each prompt, in the order of the prompts.

        An output depends on its prompt and its sampling settings alone; prompts that
        are equal and have one seed get one output twice.

        Args:
          prompts: tokens.
          sampling: sampling settings for all prompts, or one for each.

        Raises:
          UserError: see `check`; the message names the prompt's index.
        """
        scores = [TokenScores() for _ in prompts]
        reasons = [""] * len(prompts)
        for index, delta in self.stream(prompts, sampling):
            scores[index].extend(delta.new)
            reasons[index] = delta.finish_reason or ""
        return [
            Completion(one.tokens, one.log_probs, reason)
            for one, reason in zip(scores, reasons, strict=True)
        ]

    def stream(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling]
    ) -> Generator[tuple[int, TokenDelta], None, None]:
        """Yields (index of the prompt, its new tokens) until all outputs have ended.

        The caller may `cancel` a delta's request. What has not ended is cancelled when
        the iteration is closed. Arguments and errors as for `generate`; the engine has
        to be idle.
        """
        if self.busy:
            raise RuntimeError("the engine is busy with other requests")
        each = [sampling] * len(prompts) if isinstance(sampling, Sampling) else sampling
        for index, (prompt, how) in enumerate(zip(prompts, each, strict=True)):
            try:
                self.check(prompt, how)
            except UserError as error:
                raise UserError(f"prompt {index}: {error}") from error
        index_of = self._add_all(prompts, each)
        try:
            while self.busy:
                for delta in self._advance():
                    yield index_of[delta.request], delta
        finally:
            for number in index_of:
                self.cancel(number)
            while self.busy:
                self.step()

    def _add_all(
        self, prompts: Sequence[Sequence[int]], each: Sequence[Sampling]
    ) -> dict[int, int]:
        """Takes all requests; returns the index of the prompt by number.

        The longest come first, so that a lack of memory shows at once; equal prompts
        follow each other and share their blocks.
        """
        index_of: dict[int, int] = {}
        order = sorted(
            range(len(prompts)), key=lambda i: (-len(prompts[i]), prompts[i])
        )
        leader: QueuedRequest | None = None
        for index in order:
            if leader is not None and leader.prompt != prompts[index]:
                leader = None
            request = self._add(prompts[index], each[index], leader)
            leader = leader or request
            index_of[request.number] = index
        return index_of

    def step(self) -> list[TokenDelta]:
        """Starts the next device calls; returns what the ones before generated.

        The device works while the host reads, so it never waits for the host.
        """
        before, self._pending = self._pending, []
        self._scheduler.admit()
        self._prefill()
        self._scheduler.release_scheduled()
        if requests := self._decode(refill=0.0):
            for request in requests:
                request.scheduled += self.config.steps * self.config.rounds
            self._scheduler.release_scheduled()
        return self._report(before)

    def _advance(self) -> list[TokenDelta]:
        """Starts device calls as `step`, but reads their output before it returns.

        The host then knows who has ended: a decode call need not run for the few that
        are left while others wait. Faster for many requests at once on a CPU, where the
        host's work is little and the device's wasted steps are not.
        """
        while True:
            self._scheduler.admit()
            if not self._prefill():
                break
        self._decode(refill=_REFILL)
        calls, self._pending = self._pending, []
        return self._report(calls)

    def _prefill(self) -> bool:
        """Starts a prefill call if a prompt is not in the cache; says whether."""
        prefill = self._scheduler.next_prefill()
        if prefill is None:
            return False
        chunk = prefill.chunk
        ended = {row: r for row, r, _ in prefill.members if r.is_prefilled}
        if prefill.log_probs:
            self._state, output, log_probs = self._programs.prefill_with_log_probs(
                self._state, chunk
            )
            self._pending.append(_Call(output, ended, prefill, log_probs))
        else:
            self._state, output = self._programs.prefill(self._state, chunk)
            self._pending.append(_Call(output, ended))
        return True

    def _decode(self, refill: float) -> list[QueuedRequest]:
        """Starts a decode call if there is anything to decode; returns its requests."""
        decode = self._scheduler.next_decode(refill)
        if decode is None:
            return []
        self._state, output = self._programs.decode(self._state, decode.input)
        self._pending.append(_Call(output, decode.requests))
        return list(decode.requests.values())

    def _report(self, calls: list[_Call]) -> list[TokenDelta]:
        deltas = [
            TokenDelta(r.number, TokenScores(), CANCELLED) for r in self._cancelled
        ]
        self._cancelled = []
        for call in calls:
            deltas += self._read_back(call)
        return deltas

    def _read_back(self, call: _Call) -> Iterator[TokenDelta]:
        """Yields the new tokens of each request of a device call."""
        if call.log_probs is not None and call.prefill is not None:
            _read_log_probs(call.prefill, call.log_probs)
        token, log_prob, valid = (np.asarray(part).T for part in call.output[:3])
        count = valid.sum(1).tolist()  # a sequence that has ended does not go on
        # They are not copied where no request wants them.
        wanted = any(request.sampling.top for request in call.requests.values())
        top = jax.tree.map(np.asarray, call.output.top) if wanted else None
        for column, request in call.requests.items():
            size = count[column]
            if not size or request.finish_reason is not None:  # cancelled since
                continue
            new = token_scores(
                token[column, :size],
                log_prob[column, :size],
                None if top is None else TopTokens(*(p[:size, column] for p in top)),
                request.sampling.top,
            )
            first = not request.generated and request.sampling.prompt_log_probs
            request.generated += size
            if new.tokens[-1] in request.sampling.stop_ids:
                self._end(request, STOP)
            elif request.generated == request.sampling.max_tokens:
                self._end(request, LENGTH)
            prompt = request.prompt_scores if first else None
            yield TokenDelta(request.number, new, request.finish_reason, prompt)

    def _end(self, request: QueuedRequest, reason: str) -> None:
        request.finish_reason = reason
        del self._requests[request.number]
        self._scheduler.remove(request)


def _read_log_probs(prefill: Prefill, log_probs: PromptLogProbs) -> None:
    """Appends the log-probs of a call's prompt tokens to their requests."""
    log_prob, top = jax.tree.map(np.asarray, log_probs)
    for row, request, size in prefill.members:
        begin = len(request.prompt_scores.tokens) + 1
        found = token_scores(
            np.array(request.prompt[begin : begin + size], np.int32),
            log_prob[row, :size],
            TopTokens(*(part[row, :size] for part in top)),
            request.sampling.top,
        )
        request.prompt_scores.extend(found)

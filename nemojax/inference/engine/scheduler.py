"""Host-side scheduling: which request has which slot and which blocks.

The scheduler builds the inputs of the device programs and never touches the device.
Arrays with a row for each slot change only where a slot changes hands, so that a decode
call costs the host no work for each token.
"""

import collections
import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from nemojax.inference.engine import sampling
from nemojax.inference.engine.blocks import BlockPool, CachedSequence, OutOfBlocks
from nemojax.inference.engine.config import EngineConfig
from nemojax.inference.engine.outputs import Load, TokenScores
from nemojax.inference.engine.paged_state import DecodeInput, PrefillChunk, Span
from nemojax.inference.engine.sampling import Sampling


@dataclasses.dataclass(eq=False)
class QueuedRequest:
    """A prompt on its way to its output.

    Attributes:
      number: number of the request.
      prompt: tokens.
      sampling: sampling settings of the output.
      leader: an earlier request with the same prompt, whose blocks this one shares.
      slot: slot that the request is decoded in; None before and after.
      sequence: blocks of the request; None before it has any.
      prefilled: tokens of the prompt that calls so far put into the cache.
      prompt_scores: scores of the prompt, where they are wanted.
      scheduled: output tokens that calls so far generate, unless a stop token comes.
      generated: output tokens that the host has read.
      finish_reason: None before it has ended.
    """

    number: int
    prompt: list[int]
    sampling: Sampling
    leader: "QueuedRequest | None" = None
    slot: int | None = None
    sequence: CachedSequence | None = None
    prefilled: int = 0
    prompt_scores: TokenScores = dataclasses.field(default_factory=TokenScores)
    scheduled: int = 0
    generated: int = 0
    finish_reason: str | None = None

    @property
    def is_prefilled(self) -> bool:
        """True once calls have put the whole prompt into the cache."""
        return self.prefilled == len(self.prompt)

    @property
    def may_share(self) -> bool:
        """True where blocks of others will do.

        They will not where every token of the prompt has to pass through the model for
        this request: for its log-probs, or to mark it for the repetition penalty.
        """
        how = self.sampling
        return how.repetition_penalty == 1 and not how.prompt_log_probs


class Prefill(NamedTuple):
    """A prefill call.

    Attributes:
      chunk: input of the call.
      members: row and request of each chunk, and the number of its tokens
        that another token of the prompt follows.
      log_probs: whether log-probs of the prompts are wanted.
    """

    chunk: PrefillChunk
    members: list[tuple[int, QueuedRequest, int]]
    log_probs: bool


class Decode(NamedTuple):
    """A decode call: its input, and the request of each slot."""

    input: DecodeInput
    requests: dict[int, QueuedRequest]


class Scheduler:
    """Assigns slots and blocks to requests, in the order in which they come.

    A request has all the blocks that it may need before it begins, so one that runs
    always ends. Slots and blocks are those of a shard of `data`: slot s belongs to
    shard `s // (slots / shards)`.
    """

    def __init__(self, config: EngineConfig, shards: int):
        """Begins without requests; `shards` is the size of the mesh's axis `data`."""
        self._config, self._shards = config, shards
        self._per_shard = config.slots // shards
        self._pools = [
            BlockPool(config.blocks, config.block_size) for _ in range(shards)
        ]
        self._free_slots = [
            list(range((s + 1) * self._per_shard - 1, s * self._per_shard - 1, -1))
            for s in range(shards)
        ]
        self._waiting: collections.deque[QueuedRequest] = collections.deque()
        self._unread: dict[QueuedRequest, None] = {}  # with a slot, in order
        self._running: dict[int, QueuedRequest] = {}  # prefilled, by slot
        self._active = np.zeros(config.slots, bool)
        self._table = np.zeros((config.slots, config.width), np.int32)
        self._settings = sampling.settings([None] * config.slots)

    @property
    def load(self) -> Load:
        """Numbers that say how busy the engine is now."""
        free_slots = sum(map(len, self._free_slots))
        return Load(
            self._config.slots - free_slots,
            len(self._waiting),
            sum(pool.free for pool in self._pools),
            self._shards * (self._config.blocks - 1),
        )

    def add(self, request: QueuedRequest) -> None:
        """Appends a request to those that wait."""
        self._waiting.append(request)

    def remove(self, request: QueuedRequest) -> None:
        """Gives up what an ended request has: slot and blocks, or its place in line."""
        if request.slot is not None:
            self._release(request)
        elif request.sequence is None:
            self._waiting.remove(request)

    def admit(self) -> None:
        """Assigns slots and blocks to waiting requests until one finds none."""
        while self._waiting and self._assign(self._waiting[0]):
            self._waiting.popleft()

    def _assign(self, request: QueuedRequest) -> bool:
        leader = request.leader
        if leader is not None and (
            leader.slot is None or leader.sampling.prompt_log_probs
        ):
            leader = request.leader = None
        shard = self._choose_shard(leader)
        if shard is None:
            return False
        like = None
        if leader is not None and self._shard(leader.slot) == shard:
            like = leader.sequence
        try:
            request.sequence = self._pools[shard].open(
                request.prompt,
                request.sampling.max_tokens,
                share=request.may_share,
                like=like,
            )
        except OutOfBlocks:
            return False
        request.slot = slot = self._free_slots[shard].pop()
        request.prefilled = request.sequence.shared
        blocks = request.sequence.blocks
        self._table[slot, : len(blocks)] = blocks
        sampling.fill(self._settings, slot, request.sampling)
        self._unread[request] = None
        return True

    def _choose_shard(self, leader: QueuedRequest | None) -> int | None:
        """Returns the leader's shard if a slot is free, else that with most blocks."""
        if leader is not None and self._free_slots[self._shard(leader.slot)]:
            return self._shard(leader.slot)
        free = [s for s in range(self._shards) if self._free_slots[s]]
        return max(free, key=lambda s: self._pools[s].free, default=None)

    def _shard(self, slot: int | None) -> int:
        assert slot is not None
        return slot // self._per_shard

    def next_prefill(self) -> Prefill | None:
        """Builds a prefill call with a chunk of some prompts, if any are left."""
        chosen, chunk = self._choose_prompts()
        if not chosen:
            return None
        c, count = self._config, self._config.prefill_slots
        tokens, after = np.zeros((2, count, chunk), np.int32)
        start, size = np.zeros((2, count), np.int32)
        slots = np.full(count, c.slots, np.int32)
        last = np.zeros(count, bool)
        table = np.zeros((count, c.width), np.int32)
        settings = sampling.settings([None] * count)
        members = []
        for row, request in chosen:
            assert request.slot is not None
            begin, prompt = request.prefilled, request.prompt
            _, taken = c.next_chunk(len(prompt), begin)
            part = prompt[begin : begin + taken]
            follows = prompt[begin + 1 : begin + taken + 1]
            tokens[row, : len(part)] = part
            after[row, : len(follows)] = follows
            start[row], size[row] = begin, len(part)
            slots[row] = request.slot % self._per_shard
            table[row] = self._table[request.slot]
            sampling.fill(settings, row, request.sampling)
            request.prefilled += len(part)
            last[row] = request.is_prefilled
            members.append((row, request, len(follows)))
        span = Span(tokens, start, size, table)
        wanted = chosen[0][1].sampling.prompt_log_probs
        self._start(request for _, request in chosen if request.is_prefilled)
        return Prefill(
            PrefillChunk(span, after, slots, last, settings), members, wanted
        )

    def _choose_prompts(self) -> tuple[list[tuple[int, QueuedRequest]], int]:
        """Returns rows of the call with their requests, and the chunk size.

        A call takes prompts of one kind and one chunk size: programs round each in
        their way, and an output must not depend on its neighbours.
        """
        per_shard = self._config.prefill_slots // self._shards
        chosen: list[tuple[int, QueuedRequest]] = []
        kind, taken = None, [0] * self._shards
        for request in self._unread:
            leader = request.leader
            if leader is not None and not leader.is_prefilled:
                # Its blocks are shared, and calls run in order: an earlier one has to
                # fill them.
                if leader.finish_reason is None:
                    continue
                request.leader, request.prefilled = None, 0
            size, _ = self._config.next_chunk(len(request.prompt), request.prefilled)
            own = request.sampling.prompt_log_probs, size
            kind = kind or own
            shard = self._shard(request.slot)
            if own == kind and taken[shard] < per_shard:
                chosen.append((shard * per_shard + taken[shard], request))
                taken[shard] += 1
                if sum(taken) == self._config.prefill_slots:
                    break
        return chosen, kind[1] if kind else 0

    def _start(self, requests: Iterable[QueuedRequest]) -> None:
        """Moves requests with a prefilled prompt to those that are decoded."""
        for request in requests:
            assert request.slot is not None
            assert request.sequence is not None
            del self._unread[request]
            request.scheduled = 1
            self._running[request.slot] = request
            self._active[request.slot] = True
            # Outputs are not remembered: their keys differ in the last bit from those
            # of a prompt with the same tokens, which would depend on them.
            if not request.sampling.prompt_log_probs:
                pool = self._pools[self._shard(request.slot)]
                pool.remember(request.sequence, request.prompt)

    def next_decode(self, refill: float) -> Decode | None:
        """Builds a decode call of all sequences whose prompt is prefilled.

        Args:
          refill: share of a shard's sequences; if requests wait, the call may end when
            no more than that still generate.
        """
        if not self._running:
            return None
        running = self._active.reshape(self._shards, -1).sum(1)
        min_live = running * (refill if self._waiting else 0.0)
        inputs = DecodeInput(
            self._active.copy(),
            self._table.copy(),
            min_live.astype(np.int32),
            sampling.BatchSampling(*(column.copy() for column in self._settings)),
        )
        return Decode(inputs, dict(self._running))

    def release_scheduled(self) -> None:
        """Releases the slots of outputs that the calls so far complete.

        The device runs one call after the other, so what starts there comes later.
        """
        for request in list(self._running.values()):
            if request.scheduled >= request.sampling.max_tokens:
                self._release(request)

    def _release(self, request: QueuedRequest) -> None:
        assert request.slot is not None
        assert request.sequence is not None
        slot, shard = request.slot, self._shard(request.slot)
        self._unread.pop(request, None)
        self._running.pop(slot, None)
        self._active[slot] = False
        sampling.fill(self._settings, slot, sampling.UNUSED)
        self._free_slots[shard].append(slot)
        self._pools[shard].close(request.sequence)
        request.slot = None

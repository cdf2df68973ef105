"""Continuous batching: requests come and go while others are being answered.

The host decides which request has which row and which blocks, the device writes a few
tokens of all rows at a time. What it wrote is looked at while it writes the next ones,
so it does not wait for the host.
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from nemojax.errors import UserError
from nemojax.inference.engine import paged, sampling
from nemojax.inference.engine.answers import (
    CANCELLED,
    LENGTH,
    STOP,
    Delta,
    Load,
    Scored,
    scored,
)
from nemojax.inference.engine.blocks import BlockPool, OutOfBlocks, Text
from nemojax.inference.engine.paged_state import (
    Piece,
    Scores,
    Shapes,
    Span,
    Top,
    Turn,
    Written,
)
from nemojax.inference.engine.sampling import Sampling
from nemojax.models.config import ModelConfig


@dataclasses.dataclass(eq=False)
class _Request:
    number: int
    prompt: list[int]
    how: Sampling
    leader: "_Request | None"  # reads a prompt that this one shares
    text: Text | None = None
    read: int = 0  # tokens of the prompt that the device was told to read
    scores: Scored = dataclasses.field(default_factory=Scored)  # of the prompt
    asked: int = 0  # tokens of the answer that the device was told to write
    answered: int = 0
    finish: str | None = None

    @property
    def is_read(self) -> bool:
        return self.read == len(self.prompt)

    @property
    def shares(self) -> bool:
        """Whether blocks that others read will do: not where all has to be looked at.

        What was repeated is known only of what was read for this answer.
        """
        return self.how.repetition_penalty == 1 and not self.how.prompt_log_probs


@dataclasses.dataclass(frozen=True)
class _Call:
    """A call of the device that was not looked at yet.

    Attributes:
      written: by it.
      requests: whose tokens are in which place.
      scores: of prompts, and of whose which piece of a size in which place.
    """

    written: Written
    requests: dict[int, _Request]
    scores: Scores | None = None
    pieces: list[tuple[int, _Request, int]] = dataclasses.field(default_factory=list)


class BatchingEngine:
    """Answers requests, many at a time. Not for several threads at once.

    A request has all the blocks that it may need before it begins, so one that runs
    always ends. Requests begin in the order in which they came.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Any,
        mesh: Mesh,
        shapes: Shapes,
        stop_ids: Sequence[int] = (),
    ):
        """Moves the parameters to where they are used.

        Args:
          config: sizes.
          params: as `models.forward.init` makes them.
          mesh: `data` and `tensor`; `pipe` has to be 1.
          shapes: what is compiled.
          stop_ids: tokens that end every answer.

        Raises:
          UserError: shapes that the mesh does not divide.
        """
        self.shapes, self._stop_ids = shapes, tuple(stop_ids)
        self._vocab_size = config.vocab_size
        self._programs = paged.Programs(config, params, mesh, shapes)
        self._state = self._programs.start()
        self._shards = mesh.shape["data"]
        self._pools = [
            BlockPool(shapes.blocks, shapes.block_size) for _ in range(self._shards)
        ]
        self._rows: list[_Request | None] = [None] * shapes.rows
        self._waiting: collections.deque[_Request] = collections.deque()
        self._requests: dict[int, _Request] = {}
        self._cancelled: list[_Request] = []
        self._pending: list[_Call] = []
        self._next = 0

    @property
    def busy(self) -> bool:
        """Whether `step` still has something to do or to tell."""
        return bool(self._requests or self._cancelled or self._pending)

    @property
    def load(self) -> Load:
        """Now."""
        running = sum(row is not None for row in self._rows)
        free = sum(pool.free for pool in self._pools)
        blocks = self._shards * (self.shapes.blocks - 1)
        return Load(running, len(self._waiting), free, blocks)

    def submit(self, prompt: Sequence[int], how: Sampling, n: int = 1) -> list[int]:
        """Takes a prompt to be answered n times; gives the numbers of the answers.

        Answer i is as that of a request of its own with `seed + i`. The log-probs of
        the prompt come with the first answer.

        Raises:
          UserError: as `check`.
        """
        self.check(prompt, how)
        leader, numbers = None, []
        for index in range(n):
            own = dataclasses.replace(
                how,
                seed=how.seed + index,
                stop_ids=tuple({*how.stop_ids, *self._stop_ids}),
                prompt_log_probs=how.prompt_log_probs and not index,
            )
            request = _Request(self._next, list(prompt), own, leader)
            leader = leader or request
            self._next += 1
            self._requests[request.number] = request
            self._waiting.append(request)
            numbers.append(request.number)
        return numbers

    @property
    def room(self) -> int:
        """Tokens that prompt and answer may have together."""
        blocks = (self.shapes.blocks - 1) * self.shapes.block_size
        return min(self.shapes.max_length, blocks)

    def check(self, prompt: Sequence[int], how: Sampling) -> None:
        """Raises ValueError for a prompt that cannot be answered.

        It has no tokens, or some that the model does not have, or leaves too little
        room. May be called by any thread.
        """
        if not prompt:
            raise UserError("the prompt has no tokens")
        bad = next((t for t in prompt if not 0 <= t < self._vocab_size), None)
        if bad is not None:
            raise UserError(
                f"the prompt has the token id {bad}; the model has 0 to "
                f"{self._vocab_size - 1}"
            )
        if len(prompt) + how.max_tokens > self.room:
            raise UserError(
                f"the prompt has {len(prompt)} tokens and the answer may have "
                f"{how.max_tokens}: together at most {self.room}"
            )

    def cancel(self, number: int) -> None:
        """Ends a request; one that has ended already is not looked for."""
        request = self._requests.get(number)
        if request is not None:
            self._end(request, CANCELLED)
            self._cancelled.append(request)

    def step(self) -> list[Delta]:
        """Lets the device go on, and tells what it wrote before."""
        before, self._pending = self._pending, []
        self._admit()
        self._prefill()
        self._decode()
        told = [Delta(r.number, Scored(), CANCELLED) for r in self._cancelled]
        self._cancelled = []
        for call in before:
            told += self._look(call)
        return told

    def _admit(self) -> None:
        """Gives rows and blocks to those who wait, until one has to go on waiting."""
        while self._waiting:
            request = self._waiting[0]
            leader = request.leader
            if leader is not None and leader.finish is None and not leader.is_read:
                return
            row = self._free_row()
            if row is None:
                return
            try:
                request.text = self._pool(row).open(
                    request.prompt, request.how.max_tokens, share=request.shares
                )
            except OutOfBlocks:
                return
            request.read = request.text.shared
            self._rows[row] = self._waiting.popleft()

    def _free_row(self) -> int | None:
        """On the shard that has most blocks left."""
        free = [row for row, request in enumerate(self._rows) if request is None]
        return max(free, key=lambda row: self._pool(row).free, default=None)

    def _pool(self, row: int) -> BlockPool:
        return self._pools[self._shard(row)]

    def _shard(self, row: int) -> int:
        return row * self._shards // self.shapes.rows

    def _prefill(self) -> None:
        """A piece of some prompts."""
        s = self.shapes
        chosen = self._unread()
        if not chosen:
            return
        tokens, after = np.zeros((2, s.prefill_rows, s.chunk), np.int32)
        start, size = np.zeros((2, s.prefill_rows), np.int32)
        rows = np.full(s.prefill_rows, s.rows, np.int32)
        last = np.zeros(s.prefill_rows, bool)
        table = np.zeros((s.prefill_rows, s.width), np.int32)
        how: list[Sampling | None] = [None] * s.prefill_rows
        pieces = []
        for place, row, request in chosen:
            piece = request.prompt[request.read : request.read + s.chunk]
            follows = request.prompt[request.read + 1 : request.read + s.chunk + 1]
            tokens[place, : len(piece)] = piece
            after[place, : len(follows)] = follows
            start[place], size[place] = request.read, len(piece)
            rows[place] = row % (s.rows // self._shards)
            self._fill(table[place], request)
            how[place] = request.how
            request.read += len(piece)
            last[place] = request.is_read
            request.asked = int(request.is_read)
            pieces.append((place, request, len(follows)))
        span = Span(tokens, start, size, table)
        piece = Piece(span, after, rows, last, sampling.settings(how))
        done = {place: request for place, _, request in chosen if request.is_read}
        if chosen[0][2].how.prompt_log_probs:
            self._state, written, scores = self._programs.read(self._state, piece)
            self._pending.append(_Call(written, done, scores, pieces))
        else:
            self._state, written = self._programs.prefill(self._state, piece)
            self._pending.append(_Call(written, done))
            for _, row, request in chosen:
                # Answers are not remembered: their numbers differ in the last bit from
                # those of a prompt with the same tokens, which would depend on them.
                if request.is_read and request.text is not None:
                    self._pool(row).remember(request.text, request.prompt)
        self._leave(done.values())

    def _unread(self) -> list[tuple[int, int, _Request]]:
        """Whose prompts are read next: place in the call, row, request.

        All of one kind: `read` may round otherwise than `prefill`, and an answer must
        not depend on its neighbours.
        """
        per_shard = self.shapes.prefill_rows // self._shards
        unread = [
            (request.number, row, request)
            for row, request in enumerate(self._rows)
            if request is not None and not request.is_read
        ]
        chosen: list[tuple[int, int, _Request]] = []
        taken = collections.Counter[int]()
        for _, row, request in sorted(unread, key=lambda item: item[0]):
            shard = self._shard(row)
            if chosen and (
                request.how.prompt_log_probs != chosen[0][2].how.prompt_log_probs
            ):
                continue
            if taken[shard] < per_shard:
                chosen.append((shard * per_shard + taken[shard], row, request))
                taken[shard] += 1
        return chosen

    def _decode(self) -> None:
        """Some tokens of all rows whose prompt is read."""
        running = {
            row: request
            for row, request in enumerate(self._rows)
            if request is not None and request.is_read
        }
        if not running:
            return
        active = np.zeros(self.shapes.rows, bool)
        table = np.zeros((self.shapes.rows, self.shapes.width), np.int32)
        for row, request in running.items():
            active[row] = True
            self._fill(table[row], request)
        how = sampling.settings(
            [running[row].how if row in running else None for row in range(len(active))]
        )
        turn = Turn(active, table, how)
        self._state, written = self._programs.decode(self._state, turn)
        self._pending.append(_Call(written, running))
        for request in running.values():
            request.asked += self.shapes.steps
        self._leave(running.values())

    def _leave(self, requests: Iterable[_Request]) -> None:
        """Frees the places of answers that are written whole once the device is there.

        What is begun in them comes after: the device does one call after the other.
        """
        for request in requests:
            if request.asked >= request.how.max_tokens:
                self._free(request)

    def _free(self, request: _Request) -> None:
        assert request.text is not None
        row = self._rows.index(request)
        self._rows[row] = None
        self._pool(row).close(request.text)

    @staticmethod
    def _fill(table: np.ndarray, request: _Request) -> None:
        assert request.text is not None
        table[: len(request.text.blocks)] = request.text.blocks

    def _look(self, call: _Call) -> Iterator[Delta]:
        """What a call wrote to the answers of its places."""
        if call.scores is not None:
            self._look_at_scores(call)
        token, log_prob, valid = (np.asarray(part) for part in call.written[:3])
        # They are not moved where nobody asked for them.
        asked = any(request.how.top for request in call.requests.values())
        top = jax.tree.map(np.asarray, call.written.top) if asked else None
        for place, request in call.requests.items():
            if request.finish is not None:  # cancelled since, or nothing more came
                continue
            mine = valid[:, place]
            new = scored(
                token[mine, place],
                log_prob[mine, place],
                None if top is None else Top(*(part[mine, place] for part in top)),
                request.how.top,
            )
            if not new.tokens:
                continue
            first = not request.answered and request.how.prompt_log_probs
            request.answered += len(new.tokens)
            if new.tokens[-1] in request.how.stop_ids:
                self._end(request, STOP)
            elif request.answered == request.how.max_tokens:
                self._end(request, LENGTH)
            prompt = request.scores if first else None
            yield Delta(request.number, new, request.finish, prompt)

    @staticmethod
    def _look_at_scores(call: _Call) -> None:
        log_prob, top = jax.tree.map(np.asarray, call.scores)
        for place, request, size in call.pieces:
            begin = len(request.scores.tokens) + 1
            found = scored(
                np.array(request.prompt[begin : begin + size], np.int32),
                log_prob[place, :size],
                Top(*(part[place, :size] for part in top)),
                request.how.top,
            )
            request.scores.extend(found)

    def _end(self, request: _Request, finish: str) -> None:
        request.finish = finish
        del self._requests[request.number]
        if request.text is None:
            self._waiting.remove(request)
        elif request in self._rows:
            self._free(request)

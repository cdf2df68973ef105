"""Continuous batching: requests come and go while others are being answered.

The host decides which request has which row and which blocks, the device writes a few
tokens of all rows at a time. What it wrote is looked at while it writes the next ones,
so it does not wait for the host.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from nemojax.inference import paged, sampling
from nemojax.inference.blocks import BlockPool, OutOfBlocks, Text
from nemojax.inference.paged import Shapes
from nemojax.inference.sampling import Sampling
from nemojax.models.config import ModelConfig

STOP, LENGTH, CANCELLED = "stop", "length", "cancelled"


@dataclasses.dataclass(frozen=True)
class Delta:
    """What became known of an answer.

    Attributes:
      request: its number.
      tokens: new ones; a stop token is the last.
      log_probs: of each in the model's own distribution, whatever the sampling.
      finish: "stop", "length" or "cancelled" with the last tokens; None before.
    """

    request: int
    tokens: list[int]
    log_probs: list[float]
    finish: str | None


@dataclasses.dataclass(eq=False)
class _Request:
    number: int
    prompt: list[int]
    how: Sampling
    leader: "_Request | None"  # reads a prompt that this one shares
    text: Text | None = None
    read: int = 0  # tokens of the prompt that the device was told to read
    answer: list[int] = dataclasses.field(default_factory=list)
    finish: str | None = None

    @property
    def is_read(self) -> bool:
        return self.read == len(self.prompt)


@dataclasses.dataclass(frozen=True)
class Load:
    """How busy an engine is.

    Attributes:
      running, waiting: requests with and without a row.
      free_blocks, blocks: of the cache.
    """

    running: int
    waiting: int
    free_blocks: int
    blocks: int


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
          ValueError: shapes that the mesh does not divide.
        """
        self.shapes, self._stop_ids = shapes, tuple(stop_ids)
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
        self._pending: list[tuple[paged.Written, dict[int, _Request]]] = []
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

        Answer i is as that of a request of its own with `seed + i`.

        Raises:
          ValueError: a prompt without tokens, or one that leaves too little room.
        """
        room = min(
            self.shapes.max_length, (self.shapes.blocks - 1) * self.shapes.block_size
        )
        if not prompt:
            raise ValueError("the prompt has no tokens")
        if len(prompt) + how.max_tokens > room:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens and the answer may have "
                f"{how.max_tokens}: together at most {room}"
            )
        leader, numbers = None, []
        for index in range(n):
            own = dataclasses.replace(
                how,
                seed=how.seed + index,
                stop_ids=tuple({*how.stop_ids, *self._stop_ids}),
            )
            request = _Request(self._next, list(prompt), own, leader)
            leader = leader or request
            self._next += 1
            self._requests[request.number] = request
            self._waiting.append(request)
            numbers.append(request.number)
        return numbers

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
        told = [Delta(request.number, [], [], CANCELLED) for request in self._cancelled]
        self._cancelled = []
        for written, requests in before:
            told += self._look(written, requests)
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
            penalised = request.how.repetition_penalty != 1
            try:
                # What was repeated is known only of what was read for this answer.
                request.text = self._pool(row).open(
                    request.prompt, request.how.max_tokens, share=not penalised
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
        per_shard = s.prefill_rows // self._shards
        chosen: list[tuple[int, int, _Request]] = []  # place, row, request
        taken = collections.Counter[int]()
        unread = [
            (request.number, row, request)
            for row, request in enumerate(self._rows)
            if request is not None and not request.is_read
        ]
        for _, row, request in sorted(unread, key=lambda item: item[0]):
            shard = self._shard(row)
            if taken[shard] < per_shard:
                place = shard * per_shard + taken[shard]
                chosen.append((place, row, request))
                taken[shard] += 1
        if not chosen:
            return
        tokens = np.zeros((s.prefill_rows, s.chunk), np.int32)
        start, size = np.zeros((2, s.prefill_rows), np.int32)
        rows = np.full(s.prefill_rows, s.rows, np.int32)
        last = np.zeros(s.prefill_rows, bool)
        table = np.zeros((s.prefill_rows, s.width), np.int32)
        how: list[Sampling | None] = [None] * s.prefill_rows
        for place, row, request in chosen:
            piece = request.prompt[request.read : request.read + s.chunk]
            tokens[place, : len(piece)] = piece
            start[place], size[place] = request.read, len(piece)
            rows[place] = row % (s.rows // self._shards)
            self._fill(table[place], request)
            how[place] = request.how
            request.read += len(piece)
            last[place] = request.is_read
        piece = paged.Piece(
            tokens, start, size, rows, last, table, sampling.settings(how)
        )
        self._state, written = self._programs.prefill(self._state, piece)
        done = {place: request for place, _, request in chosen if request.is_read}
        self._pending.append((written, done))
        for _, row, request in chosen:
            # Answers are not remembered: their numbers differ in the last bit from
            # those of a prompt with the same tokens, which would depend on them then.
            if request.is_read and request.text is not None:
                self._pool(row).remember(request.text, request.prompt)

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
        turn = paged.Turn(active, table, how)
        self._state, written = self._programs.decode(self._state, turn)
        self._pending.append((written, running))

    @staticmethod
    def _fill(table: np.ndarray, request: _Request) -> None:
        assert request.text is not None
        table[: len(request.text.blocks)] = request.text.blocks

    def _look(self, written: paged.Written, requests: dict[int, _Request]):
        """What was written to the answers of these places."""
        token, log_prob, valid = (np.asarray(part) for part in written)
        for place, request in requests.items():
            if request.finish is not None:  # cancelled since, or nothing more came
                continue
            mine = valid[:, place]
            new, log_probs = token[mine, place].tolist(), log_prob[mine, place].tolist()
            request.answer += new
            if new and new[-1] in request.how.stop_ids:
                self._end(request, STOP)
            elif len(request.answer) == request.how.max_tokens:
                self._end(request, LENGTH)
            if new:
                yield Delta(request.number, new, log_probs, request.finish)

    def _end(self, request: _Request, finish: str) -> None:
        request.finish = finish
        del self._requests[request.number]
        if request.text is None:
            self._waiting.remove(request)
            return
        row = self._rows.index(request)
        self._rows[row] = None
        self._pool(row).close(request.text)

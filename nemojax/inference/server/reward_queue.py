"""Batches reward scoring for callers on an event loop."""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from nemojax.inference.server.service import Busy


class RewardQueue:
    """Collects conversations into batches while others are being scored."""

    def __init__(
        self,
        score: Callable[[list[Sequence[int]]], np.ndarray],
        *,
        batch: int = 64,
        max_waiting: int = 1024,
    ):
        """Begins with an empty queue.

        Args:
          score: tokens of conversations -> float32 [N, K]; called in another thread,
            once at a time.
          batch: conversations of a call, unless one request has more.
          max_waiting: conversations that may wait.
        """
        self._score, self._batch, self._max_waiting = score, batch, max_waiting
        self._waiting: list[tuple[list[Sequence[int]], asyncio.Future[np.ndarray]]] = []
        self._runner: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Number of conversations that are not being scored yet."""
        return sum(len(tokens) for tokens, _ in self._waiting)

    async def score(self, tokens: list[Sequence[int]]) -> np.ndarray:
        """Scores conversations; returns float32 [N, K].

        Raises:
          Busy: too many wait already.
        """
        if self.waiting + len(tokens) > self._max_waiting:
            raise Busy(
                f"{self.waiting} conversations wait, at most {self._max_waiting}"
            )
        done: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._waiting.append((tokens, done))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await done

    async def _run(self) -> None:
        while self._waiting:
            taken = [self._waiting.pop(0)]
            count = len(taken[0][0])
            while self._waiting and count + len(self._waiting[0][0]) <= self._batch:
                taken.append(self._waiting.pop(0))
                count += len(taken[-1][0])
            # Whoever has gone away meanwhile is left out.
            taken = [(tokens, done) for tokens, done in taken if not done.done()]
            if not taken:
                continue
            together = [row for tokens, _ in taken for row in tokens]
            try:
                values = await asyncio.to_thread(self._score, together)
            except Exception as error:
                for _, done in taken:
                    if not done.done():
                        done.set_exception(error)
                continue
            start = 0
            for tokens, done in taken:
                if not done.done():
                    done.set_result(values[start : start + len(tokens)])
                start += len(tokens)

"""An engine in a thread of its own, for callers on an event loop.

The thread alone touches the engine. It takes orders between two steps, and what became
known of answers goes back to the loop. An answer that nobody reads any more is
cancelled, and its blocks are free again at the next step.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from nemojax.inference.engine.answers import Delta, Load
from nemojax.inference.engine.batching import BatchingEngine
from nemojax.inference.engine.sampling import Sampling


class Busy(Exception):
    """So many answers are waiting that this one is not taken."""


class Failed(Exception):
    """The engine has failed; nothing is answered any more."""


class Ticket:
    """Answers that are under way: iterate over it for (index of the answer, Delta).

    Ends when all answers have ended or were given up.
    """

    def __init__(self, count: int, cancel: Callable[["Ticket", set[int]], None]):
        self.numbers: list[int] = []  # of the answers; the engine's thread sets them
        self._open = set(range(count))
        self._cancel = cancel
        self._told: asyncio.Queue[tuple[int, Delta] | Exception] = asyncio.Queue()

    @property
    def left(self) -> int:
        """Answers that have not ended."""
        return len(self._open)

    def put(self, told: tuple[int, Delta] | Exception) -> None:
        """For the service."""
        if isinstance(told, Exception):
            self._open.clear()
        elif told[0] not in self._open:
            return
        elif told[1].finish is not None:
            self._open.discard(told[0])
        self._told.put_nowait(told)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Delta]]:
        """Raises Failed when the engine fails."""
        while self._open or not self._told.empty():
            told = await self._told.get()
            if isinstance(told, Exception):
                raise told
            yield told

    def give_up(self, index: int) -> None:
        """Nothing more is wanted of an answer."""
        if index in self._open:
            self._open.discard(index)
            self._cancel(self, {index})

    def close(self) -> None:
        """Nothing more is wanted at all."""
        if self._open:
            given_up, self._open = self._open, set()
            self._cancel(self, given_up)


class Service:
    """Answers prompts from an event loop.

    Attributes:
      engine: asked for `check`, `room` and `load` by anybody; all else is the thread's.
    """

    def __init__(self, engine: BatchingEngine, *, max_waiting: int = 256):
        """The thread starts with `start`.

        Args:
          engine: nobody else uses it from now on.
          max_waiting: answers that may wait beside those that have a row.
        """
        self.engine = engine
        self._max_open = engine.shapes.rows + max_waiting
        self._open: set[Ticket] = set()  # of the event loop
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._calls: set[concurrent.futures.Future[Any]] = set()
        self._tickets: dict[int, tuple[Ticket, int]] = {}  # of the thread
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._load = engine.load
        self._failure: Exception | None = None

    def start(self) -> None:
        """Begins to answer; call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread after its step; what is open fails."""
        self._orders.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def healthy(self) -> bool:
        """Whether it answers."""
        return self._failure is None and self._thread.is_alive()

    @property
    def load(self) -> Load:
        """Of the engine after its last step."""
        return self._load

    @property
    def open(self) -> int:
        """Answers that have not ended."""
        return sum(ticket.left for ticket in self._open)

    @property
    def capacity(self) -> int:
        """Answers that may be open at a time."""
        return self._max_open

    def submit(
        self, prompts: Sequence[Sequence[int]], how: Sampling, n: int = 1
    ) -> Ticket:
        """Takes prompts, each to be answered n times.

        Answer i of prompt p has index `p * n + i`.

        Raises:
          ValueError: one cannot be answered, see `BatchingEngine.check`.
          Busy: too many wait already.
          Failed: the engine has.
        """
        for prompt in prompts:
            self.engine.check(prompt, how)
        self._check_health()
        count = n * len(prompts)
        if self.open + count > self._max_open:
            raise Busy(f"{self.open} answers are open, at most {self._max_open}")
        ticket = Ticket(count, self._cancel)
        self._open.add(ticket)

        def order() -> None:
            for prompt in prompts:
                ticket.numbers += self.engine.submit(prompt, how, n)
            for index, number in enumerate(ticket.numbers):
                self._tickets[number] = ticket, index

        self._orders.put(order)
        return ticket

    async def call(self, function: Callable[[], Any]) -> Any:
        """Runs a function in the engine's thread, between two steps."""
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def order() -> None:
            try:
                done.set_result(function())
            except Exception as error:
                done.set_exception(error)

        self._check_health()
        self._calls.add(done)
        self._orders.put(order)
        try:
            return await asyncio.shield(asyncio.wrap_future(done))
        finally:
            self._calls.discard(done)

    def _check_health(self) -> None:
        if not self.healthy:
            raise Failed(f"the engine has failed: {self._failure}")

    def _cancel(self, ticket: Ticket, indices: set[int]) -> None:
        def order() -> None:
            for index in indices:
                number = ticket.numbers[index]
                if self._tickets.pop(number, None):
                    self.engine.cancel(number)

        if not ticket.left:
            self._open.discard(ticket)
        self._orders.put(order)

    def _run(self) -> None:
        """The thread."""
        try:
            while self._obey():
                told = self.engine.step()
                self._load = self.engine.load
                if told:
                    self._deliver(told)
            self._failure = Failed("it was stopped")
        except Exception as error:
            # Whatever it is, callers must not wait for ever.
            self._failure = error
        self._on_loop(self._fail_all)

    def _obey(self) -> bool:
        """Takes all orders, or waits for one; whether to go on."""
        orders: collections.deque[Callable[[], None] | None] = collections.deque()
        if not self.engine.busy:
            orders.append(self._orders.get())
        while not self._orders.empty():
            orders.append(self._orders.get())
        for order in orders:
            if order is None:
                return False
            order()
        return True

    def _deliver(self, told: Sequence[Delta]) -> None:
        found = []
        for delta in told:
            ticket = self._tickets.get(delta.request)
            if ticket is None:  # given up
                continue
            if delta.finish is not None:
                del self._tickets[delta.request]
            found.append((*ticket, delta))

        def put() -> None:
            for ticket, index, delta in found:
                ticket.put((index, delta))
                if not ticket.left:
                    self._open.discard(ticket)

        self._on_loop(put)

    def _fail_all(self) -> None:
        failed = Failed(f"the engine has failed: {self._failure}")
        for ticket in self._open:
            ticket.put(failed)
        self._open.clear()
        for done in self._calls:
            if not done.done():
                done.set_exception(failed)

    def _on_loop(self, function: Callable[[], None]) -> None:
        assert self._loop is not None
        # A loop that has ended has nobody who waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

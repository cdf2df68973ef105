"""Runs an engine in a thread of its own, for callers on an event loop.

The thread alone touches the engine. It runs commands between two steps, and sends new
tokens back to the loop. An output that has no reader any more is cancelled, and its
blocks are free again at the next step.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from nemojax.inference.engine.engine import Engine
from nemojax.inference.engine.outputs import Load, TokenDelta
from nemojax.inference.engine.sampling import Sampling


class Busy(Exception):
    """Says that too many requests wait for this one to be taken."""


class Failed(Exception):
    """Says that the engine has failed and generates nothing any more."""


class Ticket:
    """Outputs of a call of `submit`: an iterator of (index of the output, TokenDelta).

    Ends when all outputs have ended or were cancelled.
    """

    def __init__(self, count: int, cancel: Callable[["Ticket", set[int]], None]):
        self.numbers: list[int] = []  # of the requests; the engine's thread sets them
        self._open = set(range(count))
        self._given_up: set[int] = set()
        self._cancel = cancel
        self._deltas: asyncio.Queue[tuple[int, TokenDelta] | Exception] = (
            asyncio.Queue()
        )

    @property
    def left(self) -> int:
        """Number of outputs that have not ended."""
        return len(self._open)

    def put(self, report: tuple[int, TokenDelta] | Exception) -> None:
        """Appends a delta, or the exception that ends all; the service calls it."""
        if isinstance(report, Exception):
            self._open.clear()
        elif report[0] not in self._open:
            return
        elif report[1].finish_reason is not None:
            self._open.discard(report[0])
        self._deltas.put_nowait(report)

    async def __aiter__(self) -> AsyncIterator[tuple[int, TokenDelta]]:
        """Yields deltas; raises Failed when the engine fails."""
        while self._open or not self._deltas.empty():
            report = await self._deltas.get()
            if isinstance(report, Exception):
                raise report
            if report[0] not in self._given_up:
                yield report

    def give_up(self, index: int) -> None:
        """Cancels one output; what has come of it and was not read is dropped."""
        self._given_up.add(index)
        if index in self._open:
            self._open.discard(index)
            self._cancel(self, {index})

    def close(self) -> None:
        """Cancels all outputs that have not ended."""
        if self._open:
            given_up, self._open = self._open, set()
            self._cancel(self, given_up)


class Service:
    """Generates for callers on an event loop.

    Attributes:
      engine: any thread may call `check` and `room`; all else is the engine thread's.
    """

    def __init__(self, engine: Engine, *, max_waiting: int = 256):
        """Prepares the thread, which `start` starts.

        Args:
          engine: belongs to the service from now on.
          max_waiting: requests that may wait beside those that have a slot.
        """
        self.engine = engine
        self._max_open = engine.config.slots + max_waiting
        self._open: set[Ticket] = set()  # of the event loop
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = (
            queue.SimpleQueue()
        )
        self._calls: set[concurrent.futures.Future[Any]] = set()
        self._tickets: dict[int, tuple[Ticket, int]] = {}  # of the thread
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._load = engine.load
        self._failure: Exception | None = None

    def start(self) -> None:
        """Starts the thread; call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread after its step; what is open fails."""
        self._commands.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def healthy(self) -> bool:
        """True while the engine runs."""
        return self._failure is None and self._thread.is_alive()

    @property
    def load(self) -> Load:
        """Numbers that say how busy the engine was after its last step."""
        return self._load

    @property
    def open(self) -> int:
        """Number of outputs that have not ended."""
        return sum(ticket.left for ticket in self._open)

    @property
    def capacity(self) -> int:
        """Number of outputs that may be open at a time."""
        return self._max_open

    def submit(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, n: int = 1
    ) -> Ticket:
        """Takes prompts of each of which n outputs are wanted.

        Output i of prompt p has index `p * n + i`.

        Raises:
          ValueError: see `Engine.check`.
          Busy: too many wait already.
          Failed: the engine has.
        """
        for prompt in prompts:
            self.engine.check(prompt, sampling)
        self._check_health()
        count = n * len(prompts)
        if self.open + count > self._max_open:
            raise Busy(f"{self.open} answers are open, at most {self._max_open}")
        ticket = Ticket(count, self._cancel)
        self._open.add(ticket)

        def command() -> None:
            for prompt in prompts:
                ticket.numbers += self.engine.submit(prompt, sampling, n)
            for index, number in enumerate(ticket.numbers):
                self._tickets[number] = ticket, index

        self._commands.put(command)
        return ticket

    async def call(self, function: Callable[[], Any]) -> Any:
        """Runs a function in the engine's thread, between two steps."""
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def command() -> None:
            try:
                done.set_result(function())
            except Exception as error:
                done.set_exception(error)

        self._check_health()
        self._calls.add(done)
        self._commands.put(command)
        try:
            return await asyncio.shield(asyncio.wrap_future(done))
        finally:
            self._calls.discard(done)

    def _check_health(self) -> None:
        if not self.healthy:
            raise Failed(f"the engine has failed: {self._failure}")

    def _cancel(self, ticket: Ticket, indices: set[int]) -> None:
        def command() -> None:
            for index in indices:
                number = ticket.numbers[index]
                if self._tickets.pop(number, None):
                    self.engine.cancel(number)

        if not ticket.left:
            self._open.discard(ticket)
        self._commands.put(command)

    def _run(self) -> None:
        """Runs the engine until it is stopped or fails; the body of the thread."""
        try:
            while self._run_commands():
                deltas = self.engine.step()
                self._load = self.engine.load
                if deltas:
                    self._deliver(deltas)
            self._failure = Failed("it was stopped")
        except Exception as error:
            # Whatever it is, callers must not wait for ever.
            self._failure = error
        self._on_loop(self._fail_all)

    def _run_commands(self) -> bool:
        """Runs all commands, or waits for one; returns False on shutdown."""
        commands: collections.deque[Callable[[], None] | None] = collections.deque()
        if not self.engine.busy:
            commands.append(self._commands.get())
        while not self._commands.empty():
            commands.append(self._commands.get())
        for command in commands:
            if command is None:
                return False
            command()
        return True

    def _deliver(self, deltas: Sequence[TokenDelta]) -> None:
        found = []
        for delta in deltas:
            ticket = self._tickets.get(delta.request)
            if ticket is None:  # cancelled
                continue
            if delta.finish_reason is not None:
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

"""Listens for connections, and closes those that send no request in time."""

import asyncio
import dataclasses
import os
import resource
import signal
import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclasses.dataclass(frozen=True)
class Listening:
    """Address and time limits of the listener.

    Attributes:
      host, port: address to bind; port 0 takes a free one.
      connections: most connections at a time; more get status 503.
      header_seconds: until a request's header has come.
      drain_seconds: until what is being answered is cut off at the end.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    connections: int = 2048
    header_seconds: float = 10.0
    drain_seconds: float = 60.0


def serve(app: Starlette, how: Listening, ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; requests that were begun are finished first.

    Args:
      app: application to serve.
      how: address, and limits of connections.
      ready: called with the address when clients can connect.

    Raises:
      OSError: the address is not free.
    """
    _allow_files(how.connections)
    config = uvicorn.Config(
        app,
        host=how.host,
        port=how.port,
        http=_protocol(how.header_seconds),
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="warning",
        limit_concurrency=how.connections,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(how.drain_seconds)),
        server_header=False,
        # A backlog for a burst of clients.
        backlog=4096,
    )
    bound = _bound(how)
    name, port = bound.getsockname()[:2]
    server = uvicorn.Server(config)

    async def run() -> None:
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            ready(f"http://{name}:{port}")
        await serving

    # uvicorn raises the signals again that have ended it.
    before = {
        number: signal.signal(number, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        asyncio.run(run())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bound(how: Listening) -> socket.socket:
    """Binds a socket; raises OSError that names the address."""
    family = socket.AF_INET6 if ":" in how.host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((how.host, how.port))
    except OSError as error:
        found.close()
        reason = os.strerror(error.errno or 0)
        raise OSError(error.errno, reason, f"{how.host}:{how.port}") from error
    found.setblocking(False)
    return found


def _allow_files(connections: int) -> None:
    """Raises the limit of open files to the number of connections, where allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Those that wait to be told that there are too many, and some of our own.
    wanted = 2 * connections + 256
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _protocol(header_seconds: float) -> type[asyncio.Protocol]:
    """Makes an HTTP protocol class with a time limit for request headers."""

    class Impatient(H11Protocol):
        _waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc) -> None:
            self._heard()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._waiting is None and self._idle:
                self._wait()
            super().data_received(data)
            if not self._idle:
                self._heard()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            # What was read meanwhile may be the beginning of the next request.
            if not self.transport.is_closing() and self.conn.trailing_data[0]:
                self._wait()

        @property
        def _idle(self) -> bool:
            """Returns whether no request awaits its response."""
            return self.cycle is None or self.cycle.response_complete

        def _wait(self) -> None:
            self._heard()
            self._waiting = self.loop.call_later(header_seconds, self._give_up)

        def _heard(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _give_up(self) -> None:
            self._waiting = None
            if self._idle and not self.transport.is_closing():
                self.transport.close()

    return Impatient

"""Runs other people's code in a process with limits, one request and answer at a time.

The process imports nothing of nemojax and sees no environment variables. A program for
it is a Python file that defines `answer(request)`, from a JSON object to a JSON object;
see `worker_process`.
"""

import json
import pathlib
import selectors
import subprocess
import sys
import time
import weakref
from typing import Any

_PROCESS = pathlib.Path(__file__).with_name("worker_process.py")


class WorkerError(Exception):
    """A request without an answer; the message completes "the program ..."."""


class Worker:
    """A process that answers requests, started at the first one and after a failure."""

    def __init__(self, program: pathlib.Path, memory_bytes: int = 1 << 30):
        """Starts nothing yet.

        Args:
          program: Python file that defines `answer`.
          memory_bytes: address space that the process may have.
        """
        self._command = [sys.executable, "-I", _PROCESS, program, str(memory_bytes)]
        self._process: subprocess.Popen[bytes] | None = None

    def ask(
        self, request: dict[str, Any], seconds: float, max_bytes: int
    ) -> dict[str, Any]:
        """Sends a request and returns its answer, both JSON objects.

        Args:
          request: request for the program's `answer`.
          seconds: most seconds of the whole answer; the process is killed after them.
          max_bytes: most bytes of the answer; the process is killed where it writes
            more.

        Raises:
          WorkerError: no answer came. The next request starts a new process.
        """
        process = self._start()
        assert process.stdin and process.stdout
        line, end = b"", time.monotonic() + seconds
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            with selectors.DefaultSelector() as ready:
                ready.register(process.stdout, selectors.EVENT_READ)
                while not line.endswith(b"\n"):
                    if not ready.select(max(0.0, end - time.monotonic())):
                        raise WorkerError("takes too long")
                    chunk = process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
                    line += chunk
                    if not chunk:
                        raise WorkerError("dies")
                    if len(line) > max_bytes:
                        raise WorkerError("writes too much")
        except BrokenPipeError:
            self.stop()
            raise WorkerError("dies") from None
        except BaseException:
            self.stop()
            raise
        return json.loads(line)

    def stop(self) -> None:
        """Kills the process, if there is one."""
        if self._process is not None:
            _kill(self._process)
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={},
            )
            weakref.finalize(self, _kill, self._process)
        return self._process


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.wait()

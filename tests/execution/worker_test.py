"""A worker answers, forgets nothing it was told, and is stopped at its limits."""

import os

import pytest

from nemojax.execution.worker import Worker, WorkerError

PROGRAM = """
import os, time
def answer(request):
    print("not an answer", flush=True)
    kind = request["kind"]
    if kind == "environment":
        return {"environment": dict(os.environ)}
    if kind == "sleep":
        time.sleep(60)
    if kind == "memory":
        bytes(2 << 30)
    if kind == "exit":
        os._exit(3)
    if kind == "long":
        return {"text": "x" * 100_000}
    return {"process": os.getpid()}
"""


@pytest.fixture
def worker(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    worker = Worker(program)
    yield worker
    worker.stop()


def ask(worker, kind, seconds=30.0):
    return worker.ask({"kind": kind}, seconds, max_bytes=10_000)


def test_one_process_answers_all_requests(worker):
    first = ask(worker, "process")
    assert first == ask(worker, "process")
    assert first["process"] != os.getpid()


@pytest.mark.parametrize(
    ("kind", "seconds", "reason"),
    [("sleep", 0.2, "too long"), ("exit", 30.0, "dies"), ("long", 30.0, "too much")],
)
def test_a_process_without_an_answer_is_killed_and_another_one_started(
    worker, kind, seconds, reason
):
    before = ask(worker, "process")["process"]
    with pytest.raises(WorkerError, match=reason):
        ask(worker, kind, seconds)
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)
    assert ask(worker, "process")["process"] != before


def test_memory_is_limited_and_the_process_lives_on(worker):
    before = ask(worker, "process")
    assert "bytes of memory" in ask(worker, "memory")["error"]
    assert ask(worker, "process") == before


def test_the_environment_is_not_seen(worker, monkeypatch):
    monkeypatch.setenv("NEMOJAX_SECRET", "x")
    assert "NEMOJAX_SECRET" not in ask(worker, "environment")["environment"]

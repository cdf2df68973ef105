"""What the server refuses, whom it does not wait for, and how it ends."""

import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from tests.inference.server import serving_process

openai = pytest.importorskip("openai")
pytest.importorskip("starlette")

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "a"}]}
WORD = {"model": "tiny", "prompt": "a"}
REFUSED = [
    ("completions", b"{", 400, "json"),
    ("completions", b"", 400, ""),
    ("completions", b"[" * 100_000, 400, "recursion"),
    ("completions", b'{"model":"tiny","prompt":"\xff"}', 400, ""),
    ("completions", b'{"model":"tiny","prompt":"\\ud800"}', 400, "invalid json"),
    ("completions", b'{"model":"tiny","prompt":"a","top_p":NaN}', 400, ""),
    ("completions", [], 400, "object"),
    ("completions", {"prompt": "a"}, 400, "model: field required"),
    ("completions", {**WORD, "model": "gpt"}, 404, "there is no model 'gpt'"),
    ("completions", {**WORD, "max_tokens": "5"}, 400, "max_tokens"),
    ("completions", {**WORD, "max_tokens": 10**40}, 400, "max_tokens"),
    ("completions", {**WORD, "temperature": -1}, 400, "temperature"),
    ("completions", {**WORD, "top_p": 0}, 400, "top_p"),
    ("completions", {**WORD, "n": 129}, 400, "n: "),
    ("completions", {**WORD, "n": 100}, 400, "100 answers in one request"),
    ("completions", {**WORD, "best_of": 2}, 400, "best_of has to be n"),
    ("completions", {**WORD, "logit_bias": {"1": 1}}, 400, "logit_bias"),
    ("completions", {**WORD, "stop": ""}, 400, "stop"),
    ("completions", {**WORD, "unknown": 1}, 400, "unknown: not supported"),
    ("completions", {**WORD, "prompt": []}, 400, "prompt"),
    ("completions", {**WORD, "prompt": ["a", 1]}, 400, "prompt"),
    ("completions", {**WORD, "prompt": ""}, 400, "no tokens"),
    ("completions", {**WORD, "prompt": [3, 336]}, 400, "token id 336"),
    ("completions", {**WORD, "prompt": [3, -1]}, 400, "prompt"),
    ("completions", {**WORD, "prompt": [1] * 120}, 400, "room for 128 tokens"),
    ("completions", {**WORD, "prompt": "a" * 300_000}, 400, "longer than any"),
    ("completions", {**WORD, "prompt": "a" * 2**20}, 413, "1,048,576 bytes"),
    ("chat/completions", {**CHAT, "messages": []}, 400, "messages"),
    ("chat/completions", {**CHAT, "messages": [{"role": "tool"}]}, 400, "role"),
    (
        "chat/completions",
        {**CHAT, "messages": [{"role": "assistant", "content": "a"}]},
        400,
        "role 'assistant'",
    ),
    ("chat/completions", {**CHAT, "tools": [{}]}, 400, "tools"),
    ("chat/completions", {**CHAT, "top_logprobs": 2}, 400, "needs logprobs"),
    ("chat/completions", {**CHAT, "stream_options": {}}, 400, "needs stream"),
    ("rewards", CHAT, 400, "'tiny' is no reward model"),
    ("embeddings", {}, 404, "not found"),
]


@pytest.fixture(scope="module")
def small(checkpoint):
    """A server with a key, little patience and small bodies."""
    flags = ("--max_body_mb=1", "--max_waiting=2", "--connections=40")
    flags += ("--header_seconds=0.5", "--body_seconds=0.5")
    with serving_process.serving(checkpoint, *flags, NEMOJAX_API_KEY="secret") as found:
        yield found


@pytest.mark.parametrize(("route", "body", "status", "reason"), REFUSED)
def test_what_is_wrong_is_said_in_the_form_of_openai(
    small, route, body, status, reason
):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = httpx.post(
        f"{small[0]}/v1/{route}",
        content=content,
        headers={"Authorization": "Bearer secret"},
    )
    assert found.status_code == status, found.text
    error = found.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert reason.lower() in error["message"].lower()
    if isinstance(body, dict) and status == 400:
        assert error["param"], error  # programs want to know which field it is


def test_without_the_key_there_is_only_health(small):
    address, _ = small
    for headers in ({}, {"Authorization": "Bearer secre"}, {"Authorization": "secret"}):
        for route in ("/v1/models", "/metrics", "/openapi.json"):
            found = httpx.get(address + route, headers=headers)
            assert found.status_code == 401 and found.json()["error"]["message"]
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="secret")
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_too_many_answers_are_told_to_come_again(small):
    """Four are written, two wait; nothing is lost."""

    def ask(_):
        return httpx.post(
            f"{small[0]}/v1/completions",
            json={**WORD, "max_tokens": 100, "temperature": 0},
            headers={"Authorization": "Bearer secret"},
            timeout=60,
        )

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        found = list(pool.map(ask, range(24)))
    told = {answer.status_code for answer in found}
    assert told == {200, 429}
    assert all(
        answer.headers["Retry-After"] for answer in found if answer.status_code == 429
    )
    texts = {a.json()["choices"][0]["text"] for a in found if a.status_code == 200}
    assert len(texts) == 1


def test_a_client_that_dawdles_is_cut_off(small):
    """Half a header, no header, and half a body; others are served meanwhile."""
    address, _ = small
    host, port = address.removeprefix("http://").split(":")
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
    head += b"Authorization: Bearer secret\r\nContent-Length: 50\r\n\r\n"
    sockets = []
    for begun in (b"", b"POST /v1", head + b'{"model"'):
        sockets.append(socket.create_connection((host, int(port))))
        sockets[-1].sendall(begun)
    assert httpx.get(f"{address}/health").status_code == 200
    answers = []
    for found in sockets:
        found.settimeout(60)
        answers.append(b"".join(iter(lambda found=found: found.recv(1 << 16), b"")))
        found.close()
    assert answers[:2] == [b"", b""]
    assert answers[2].startswith(b"HTTP/1.1 408")


def test_a_body_of_two_lengths_closes_the_connection(small):
    """What follows it could be taken for a request of somebody else's."""
    host, port = small[0].removeprefix("http://").split(":")
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
    head += b"Authorization: Bearer secret\r\nContent-Length: 3\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head + b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        connection.settimeout(60)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1


def test_more_connections_than_there_may_be_are_refused_and_the_server_lives(small):
    address, _ = small
    host, port = address.removeprefix("http://").split(":")
    sockets = [socket.create_connection((host, int(port))) for _ in range(60)]
    assert httpx.get(f"{address}/health").status_code == 503
    for found in sockets:
        found.close()
    while httpx.get(f"{address}/health").status_code == 503:
        time.sleep(0.05)
    assert httpx.get(f"{address}/health").status_code == 200


def test_told_to_stop_it_ends_what_it_began(checkpoint):
    """Of a hundred answers four are written at a time; all have been asked for."""
    with (
        serving_process.serving(checkpoint) as (address, process),
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        body = {**WORD, "max_tokens": 120, "temperature": 0, "n": 25}
        asked = [
            pool.submit(httpx.post, f"{address}/v1/completions", json=body, timeout=120)
            for _ in range(4)
        ]
        while serving_process.metric(address, "waiting") <= 75:
            assert not any(one.done() for one in asked)
        process.send_signal(signal.SIGTERM)
        answers = [one.result() for one in asked]
        assert process.wait(120) == 0
        assert {answer.status_code for answer in answers} == {200}
        written = [answer.json()["usage"]["completion_tokens"] for answer in answers]
        assert written == [25 * 120] * 4
        assert "requests, " in process.stdout.read()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health")


@pytest.mark.parametrize(
    ("flags", "key", "message"),
    [
        ((), None, "name the model"),
        (("--model=nowhere",), "secret", "nowhere"),
        (("--model=nowhere",), "", "NEMOJAX_API_KEY is blank"),
        (("--model=nowhere",), " \n", "NEMOJAX_API_KEY is blank"),
        (("--model=nowhere",), "secret\n", "NEMOJAX_API_KEY is blank or has spaces"),
    ],
)
def test_what_cannot_be_served_ends_with_one_line(flags, key, message):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.serve", *flags],
        env=os.environ | ({} if key is None else {"NEMOJAX_API_KEY": key}),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr

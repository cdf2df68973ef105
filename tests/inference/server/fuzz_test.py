"""Twenty thousand requests that are wrong, and a server that goes on."""

import copy
import json
import random
import resource
import shutil
import socket
import subprocess
import sys

import httpx
import pytest

from tests.inference.server import serving_process

pytest.importorskip("starlette")
pytestmark = pytest.mark.slow

JSON = {"Content-Type": "application/json"}
TURN = {"role": "user", "content": "a"}
VALID = {
    "/v1/completions": {
        "model": "tiny",
        "prompt": ["a", "b"],
        "max_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "n": 2,
        "seed": 1,
        "stop": ["x"],
        "logprobs": 1,
        "echo": True,
        "stream": False,
    },
    "/v1/chat/completions": {
        "model": "tiny",
        "messages": [TURN],
        "max_tokens": 2,
        "logprobs": True,
        "top_logprobs": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "/v1/rewards": {"model": "tiny", "messages": [[TURN]]},
    "/tokenize": {"prompt": "a", "add_special_tokens": True},
    "/detokenize": {"tokens": [5, 6]},
}
ODD = [
    *(None, True, False, 0, -1, 1, 2**31, -(2**63), 10**400, 0.5, 1e308, -0.0),
    *("", "a", "\0", "\ud800", "é" * 5000, "<extra_id_1>", "../../etc/passwd"),
    *([], [[]], [None], [1, "a"], [-1], [2**40], {}, {"a": 1}, [{}], [[TURN] * 3]),
    [[[[[[[[]]]]]]]],
]


def places(value, path=()):
    """Paths of everything inside of a value."""
    yield path
    items = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield from places(inner, (*path, key))


def spoiled(rng):
    """(route, body) of a valid request with a few things changed."""
    route = rng.choice(list(VALID))
    body = copy.deepcopy(VALID[route])
    for _ in range(rng.randint(1, 3)):
        *path, last = rng.choice([p for p in places(body) if p] or [("model",)])
        where = body
        for key in path:
            where = where[key]
        if isinstance(where, dict) and rng.random() < 0.3:
            if rng.random() < 0.5:
                where.pop(last, None)
            else:
                name = rng.choice(["", "x", "n", "Model", "prompt"])
                where[name] = copy.deepcopy(rng.choice(ODD))
        else:
            where[last] = copy.deepcopy(rng.choice(ODD))
    content = json.dumps(body).encode()
    if rng.random() < 0.2:
        content = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        content = bytes(content[: rng.randint(0, len(content))])
    return route, content


@pytest.fixture(scope="module")
def fuzzed(checkpoint):
    """(address, process) of a server with short answers."""
    flags = ("--length=32", "--default_max_tokens=2", "--body_seconds=2")
    with serving_process.serving(checkpoint, *flags) as found:
        yield found


def test_bodies_of_every_kind_are_refused_or_answered(fuzzed):
    """None is a mistake of the server's, and every refusal is OpenAI's error."""
    address, process = fuzzed
    rng = random.Random(0)
    told = {}
    with httpx.Client(base_url=address, timeout=60) as client:
        for _ in range(12_000):
            route, content = spoiled(rng)
            found = client.post(route, content=content, headers=JSON)
            told[found.status_code] = told.get(found.status_code, 0) + 1
            assert found.status_code in (200, 400, 404, 413), (content, found.text)
            if found.status_code != 200:
                assert set(found.json()) == {"error"}, content
            elif found.headers["content-type"].startswith("text/event-stream"):
                assert found.text.endswith("data: [DONE]\n\n")
    assert told[400] > 6_000, told
    assert_well(address, process)


def test_bytes_that_are_no_http(fuzzed):
    address, process = fuzzed
    host, port = address.removeprefix("http://").split(":")
    rng = random.Random(1)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: 4\r\n\r\nabcd"
    for _ in range(2_000):
        content = bytearray(head)
        for _ in range(rng.randint(1, 6)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(bytes(content))
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(60)
            answer = b"".join(iter(lambda c=connection: c.recv(1 << 16), b""))
        assert not answer or answer.startswith(b"HTTP/1.1 4"), (content, answer)
    assert_well(address, process)


def test_ten_thousand_connections(checkpoint):
    """They are served, told that there are too many, or closed; then all is well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    body = b'{"model": "tiny", "prompt": "a", "max_tokens": 1}'
    request = (
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    )
    flags = ("--connections=500", "--header_seconds=2", "--max_waiting=100")
    with serving_process.serving(checkpoint, *flags) as (address, process):
        host, port = address.removeprefix("http://").split(":")
        begun, ended = [], {b"": 0}
        for number in range(10_000):
            try:
                begun.append(socket.create_connection((host, int(port)), timeout=30))
                if number % 3:
                    begun[-1].sendall(request % (len(body), body))
            except OSError:
                ended[b""] += 1
        for connection in begun:
            connection.settimeout(60)
            try:
                status = connection.recv(12)
            except ConnectionError:
                status = b""
            ended[status] = ended.get(status, 0) + 1
            connection.close()
        assert set(ended) <= {b"", *(b"HTTP/1.1 %d" % n for n in (200, 429, 503))}
        assert sum(ended.values()) == 10_000 and ended[b"HTTP/1.1 503"]
        assert_well(address, process)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_schemathesis_finds_nothing(fuzzed):
    """Six thousand and more of its own, from the server's schema."""
    pytest.importorskip("schemathesis")
    tool = shutil.which("schemathesis", path=str(sys.executable).rsplit("/", 1)[0])
    address, process = fuzzed
    done = subprocess.run(
        [
            tool or "schemathesis",
            *("run", f"{address}/openapi.json", "--max-examples=700"),
            "--checks=not_a_server_error,response_schema_conformance",
            *("--phases=fuzzing", "--mode=all", "--seed=1", "--no-color"),
            "--suppress-health-check=all",
        ],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert_well(address, process)


def assert_well(address, process):
    """It serves, has lost no block and has made no mistake of its own."""
    serving_process.idle(address)
    assert process.poll() is None
    found = httpx.post(
        f"{address}/v1/completions", json={"model": "tiny", "prompt": "a"}
    )
    assert found.status_code == 200
    assert not any("Traceback" in line for line in process.errors), process.errors

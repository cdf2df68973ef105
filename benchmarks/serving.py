"""Many clients at a server, some of whom go away: is every answer right?

    python -m benchmarks.serving --model=models/mine --clients=200 --minutes=5

Serves the checkpoint in a process of its own and asks it for a few dozen answers, one
after the other. Then the clients ask for the same again, all at once, each answer whole
or as a stream, and a third of them close the connection at a random moment. An answer
that is not to the letter what it was before is counted as wrong, one that does not come
as lost. Prints latencies, tokens a second, the server's memory along the way, and the
blocks of the cache that are free at the end.
"""

import asyncio
import dataclasses
import json
import logging
import os
import random
import re
import statistics
import subprocess
import sys
import time

import httpx
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "the model", required=True)
flags.DEFINE_integer("clients", 200, "at a time")
flags.DEFINE_float("minutes", 5.0, "to ask")
flags.DEFINE_integer("slots", 16, "answers that the server writes at a time")
flags.DEFINE_integer("seed", 0, "of what is asked")

WORDS = "one two three city water of the and red light is not with 12"


@dataclasses.dataclass
class Tally:
    """What became of the requests."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    tokens: int = 0
    gone: int = 0
    refused: int = 0
    wrong: int = 0
    lost: int = 0


def bodies(rng: random.Random) -> list[dict]:
    """Requests of many lengths, greedy and sampled."""
    return [
        {
            "model": "served",
            "prompt": " ".join(rng.choices(WORDS.split(), k=rng.randint(1, 40))),
            "max_tokens": rng.randint(1, 64),
            "temperature": rng.choice([0, 0.8]),
            "top_p": rng.choice([1, 0.9]),
            "seed": number,
        }
        for number in range(48)
    ]


async def whole(client: httpx.AsyncClient, body: dict) -> tuple[int, str, int]:
    """Status, text and tokens of an answer."""
    found = await client.post("/v1/completions", json=body)
    if found.status_code != 200:
        return found.status_code, "", 0
    answer = found.json()
    return 200, answer["choices"][0]["text"], answer["usage"]["completion_tokens"]


async def streamed(client: httpx.AsyncClient, body: dict) -> tuple[int, str, int]:
    """The same of a stream."""
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    text, tokens, done = "", 0, False
    async with client.stream("POST", "/v1/completions", json=body) as found:
        if found.status_code != 200:
            return found.status_code, "", 0
        async for line in found.aiter_lines():
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                chunk = json.loads(line[6:])
                text += "".join(choice["text"] for choice in chunk["choices"])
                tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
    return (200 if done else 0), text, tokens


async def ask(
    client: httpx.AsyncClient, rng: random.Random, asked: list, tally: Tally
) -> None:
    """One request, to its end or until the client goes away."""
    body, expected = rng.choice(asked)
    how = rng.choice([whole, streamed])
    start = time.monotonic()
    if rng.random() < 1 / 3:
        try:
            async with asyncio.timeout(rng.uniform(0, 3)):
                await how(client, body)
        except TimeoutError:
            tally.gone += 1
        return
    status, text, tokens = await how(client, body)
    if status == 429:
        tally.refused += 1
        await asyncio.sleep(rng.uniform(0.5, 1.5))
    elif status != 200:
        tally.lost += 1
    elif text != expected:
        tally.wrong += 1
    else:
        tally.seconds.append(time.monotonic() - start)
        tally.tokens += tokens


def resident(pid: int) -> int:
    """Bytes of memory of a process."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def soak(address: str, pid: int) -> tuple[Tally, list[int], dict[str, float]]:
    """The tally, the server's memory every tenth of the time, its metrics after it."""
    rng, tally, memory = random.Random(FLAGS.seed), Tally(), []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=address, limits=limits, timeout=120
    ) as client:
        asked = [(body, (await whole(client, body))[1]) for body in bodies(rng)]
        end = time.monotonic() + 60 * FLAGS.minutes

        async def one(number: int) -> None:
            own = random.Random(f"{FLAGS.seed} {number}")
            while time.monotonic() < end:
                try:
                    await ask(client, own, asked, tally)
                except httpx.HTTPError as error:
                    print(repr(error), file=sys.stderr)
                    tally.lost += 1

        async def watch() -> None:
            while time.monotonic() < end:
                memory.append(resident(pid))
                await asyncio.sleep(6 * FLAGS.minutes)

        await asyncio.gather(watch(), *(one(n) for n in range(FLAGS.clients)))
        await asyncio.sleep(2)
        memory.append(resident(pid))
        text = (await client.get("/metrics")).text
    found = re.findall(r"^(nemojax_\w+) ([0-9.e+]+)$", text, re.MULTILINE)
    return tally, memory, {name: float(value) for name, value in found}


def main(argv: list[str]) -> None:
    del argv
    logging.getLogger("httpx").setLevel(logging.WARNING)
    command = ["-m", "experiments.serve", f"--model={FLAGS.model}"]
    command += ["--name=served", "--port=0", "--length=512", f"--slots={FLAGS.slots}"]
    server = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout
    line = server.stdout.readline()
    address = line.split(" at ")[1].split(",")[0]
    try:
        tally, memory, after = asyncio.run(soak(address, server.pid))
    finally:
        server.terminate()
        server.wait()
    seconds = sorted(tally.seconds)
    print(
        f"{len(seconds):,} answers, {tally.gone:,} given up, {tally.refused:,} told to "
        f"come again, {tally.wrong} wrong, {tally.lost} lost\n"
        f"{tally.tokens / 60 / FLAGS.minutes:,.0f} tokens/s; latency p50 "
        f"{statistics.median(seconds):.2f} s, p99 "
        f"{seconds[int(0.99 * len(seconds))]:.2f} s\n"
        f"memory MiB: {', '.join(f'{value / 2**20:,.0f}' for value in memory)}\n"
        f"blocks free {after['nemojax_free_blocks']:,.0f} of "
        f"{after['nemojax_blocks']:,.0f}, running {after['nemojax_running']:.0f}; "
        f"exit status {server.returncode}"
    )


if __name__ == "__main__":
    app.run(main)

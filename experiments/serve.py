"""A server of a checkpoint for OpenAI's clients, and for lm-evaluation-harness.

    python -m experiments.serve --model=models/mine
    curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"model": "mine", "messages": [{"role": "user", "content": "Hello"}]}'

--model is a model folder, the folder of a run that made one, or a Hugging Face
checkpoint of Nemotron or Llama. One
with a reward head gives attribute values (/v1/rewards). Clients have to send the key in
the environment variable NEMOJAX_API_KEY, if it is set. docs/serving.md has the routes.

Prints the address when clients can connect. Serves until SIGTERM or Ctrl-C; what was
begun is answered before it ends. Exit status 0: told to stop; 2: something to mend.
"""

import dataclasses
import os
from typing import Any

from absl import flags

from nemojax.cli import command, model_flags
from nemojax.errors import UserError
from nemojax.inference.engine import config as configs
from nemojax.inference.server import application, listen, opening
from nemojax.inference.server.served import Limits, Served
from nemojax.io.progress import Progress

KEY = "NEMOJAX_API_KEY"
FLAGS = flags.FLAGS
model_flags.define(model_flags.Mesh(), kinds=True)
flags.DEFINE_string("name", None, "what clients call it; default: its folder's name")
flags.DEFINE_integer("slots", 16, "answers that are written at a time", lower_bound=1)
flags.DEFINE_integer("length", 4096, "tokens of prompt and answer", lower_bound=2)
flags.DEFINE_integer(
    "cache_tokens",
    0,
    "tokens in the cache; 0: all slots at full length, if they fit",
    0,
)
flags.DEFINE_float(
    "memory_fraction", 0.9, "of an accelerator's memory for weights and cache", 0.01, 1
)
flags.DEFINE_integer("max_waiting", 256, "answers that may wait", lower_bound=0)
flags.DEFINE_integer(
    "default_max_tokens", 1024, "tokens of an answer that names no limit", lower_bound=1
)
flags.DEFINE_string("host", "127.0.0.1", "address to listen on")
flags.DEFINE_integer("port", 8000, "port to listen on; 0: a free one", 0, 65535)
flags.DEFINE_integer("connections", 2048, "open at a time", lower_bound=1)
flags.DEFINE_float("max_body_mb", 4.0, "largest request", 0.001)
flags.DEFINE_float("header_seconds", 10.0, "until a request's header has come", 0.1)
flags.DEFINE_float("body_seconds", 30.0, "until a request's body has come", 0.1)
flags.DEFINE_float("drain_seconds", 60.0, "for what was begun, at the end", 1)
command.define_json()


def opened() -> Served:
    """Loads and compiles the model that the flags name."""
    model = model_flags.load(name=FLAGS.name, progress=Progress("parameters").show)
    replicas = model.mesh.shape["data"]
    if FLAGS.slots % replicas:
        raise UserError(
            f"--slots={FLAGS.slots} does not divide over --parallel.data={replicas}"
        )
    config = configs.serving(
        FLAGS.slots,
        min(FLAGS.length, model.config.max_positions or FLAGS.length),
        FLAGS.cache_tokens,
        data=replicas,
        memory_fraction=FLAGS.memory_fraction,
    )
    limits = Limits(
        body_bytes=round(FLAGS.max_body_mb * 2**20),
        body_seconds=FLAGS.body_seconds,
        default_max_tokens=FLAGS.default_max_tokens,
    )
    return opening.open_model(
        model, config, max_waiting=FLAGS.max_waiting, limits=limits
    )


def key() -> str | None:
    """Returns the key that clients have to send; refuses one that none can send."""
    found = os.environ.get(KEY)
    if found is not None and (not found.strip() or found != found.strip()):
        raise UserError(
            f"{KEY} is blank or has spaces around it: give a key, or unset it for a "
            "server without one"
        )
    return found


def run() -> int:
    """Serves until it is told to stop."""
    secret = key()
    served = opened()
    kind = "scoring" if served.rewards else "generating"
    fields = dataclasses.fields(listen.Listening)
    values: dict[str, Any] = {field.name: FLAGS[field.name].value for field in fields}
    how = listen.Listening(**values)

    def ready(address: str) -> None:
        print(
            f"{served.model.name}: {kind} at {address}, {FLAGS.slots} at a time, "
            f"up to {served.max_length} tokens each",
            flush=True,
        )

    app = application.application(served, key=secret, host=FLAGS.host)
    listen.serve(app, how, ready)
    answered, read, written = served.metrics.totals()
    result = {"requests": answered, "tokens_read": read, "tokens_written": written}
    text = f"{answered:,} requests, {read:,} tokens read, {written:,} written"
    command.print_result(result, text, FLAGS.json)
    return command.SUCCESS


if __name__ == "__main__":
    command.start(run)

"""Serves a checkpoint to OpenAI's clients, and to lm-evaluation-harness.

    python -m experiments.serve --checkpoint=models/mine
    curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \
        -d '{"model": "mine", "messages": [{"role": "user", "content": "Hello"}]}'

--checkpoint is a model folder or a Hugging Face checkpoint of Nemotron or Llama. One
with a reward head gives attribute values (/v1/rewards). Clients have to send the key in
the environment variable NEMOJAX_API_KEY, if it is set. docs/serving.md has the routes.

Prints the address when clients can connect. Serves until SIGTERM or Ctrl-C; what was
begun is answered before it ends. Exit status 0: told to stop; 2: something to mend.
"""

import dataclasses
import os
from typing import Any

from absl import flags

from nemojax.cli import command
from nemojax.inference.engine import shapes as shaping
from nemojax.inference.server import application, listen, opening
from nemojax.inference.server.served import Limits, Served
from nemojax.interop import loading
from nemojax.io.files import DataError
from nemojax.models import quantized
from nemojax.parallel import mesh as meshes
from nemojax.training import metrics

KEY = "NEMOJAX_API_KEY"
FLAGS = flags.FLAGS
flags.DEFINE_string("checkpoint", None, "the model")
flags.DEFINE_string("name", None, "what clients call it; default: its folder's name")
flags.DEFINE_string(
    "template", "auto", "auto, none, nemotron, llama2, llama3 or a Jinja file"
)
flags.DEFINE_string("dtype", None, "of the computation; default: the checkpoint's")
flags.DEFINE_enum(
    "quantize", None, list(quantized.KINDS), "weights of one byte; default: as they are"
)
flags.DEFINE_integer("data", 1, "mesh: the rows are split so often", lower_bound=1)
flags.DEFINE_integer("tensor", 1, "mesh: the heads are split so often", lower_bound=1)
flags.DEFINE_integer("rows", 16, "answers that are written at a time", lower_bound=1)
flags.DEFINE_integer("max_length", 4096, "tokens of prompt and answer", lower_bound=2)
flags.DEFINE_integer(
    "cache_tokens", 0, "tokens in the cache; default: all rows at full length"
)
flags.DEFINE_integer("max_waiting", 256, "answers that may wait", lower_bound=0)
flags.DEFINE_integer(
    "default_max_tokens", 1024, "of a chat's answer that names no limit", lower_bound=1
)
flags.DEFINE_string("host", "127.0.0.1", "address to listen on")
flags.DEFINE_integer("port", 8000, "port to listen on; 0: a free one", 0, 65535)
flags.DEFINE_integer("connections", 2048, "at a time", lower_bound=1)
flags.DEFINE_float("max_body_mb", 4.0, "of a request", 0.001)
flags.DEFINE_float("header_seconds", 10.0, "until a request's header has come", 0.1)
flags.DEFINE_float("body_seconds", 30.0, "until a request's body has come", 0.1)
flags.DEFINE_float("drain_seconds", 60.0, "for what was begun, at the end", 1)


def opened() -> Served:
    """The model that the flags name, compiled."""
    if not FLAGS.checkpoint:
        raise DataError("name the model: --checkpoint=FOLDER")
    model = loading.load(
        FLAGS.checkpoint,
        meshes.make_mesh(data=FLAGS.data, tensor=FLAGS.tensor),
        template=FLAGS.template,
        dtype=FLAGS.dtype,
        quantize=FLAGS.quantize,
        name=FLAGS.name,
        progress=metrics.shown("parameters"),
    )
    shapes = shaping.serving(
        FLAGS.rows,
        min(FLAGS.max_length, model.config.max_positions or FLAGS.max_length),
        FLAGS.cache_tokens,
        data=FLAGS.data,
    )
    limits = Limits(
        body_bytes=round(FLAGS.max_body_mb * 2**20),
        body_seconds=FLAGS.body_seconds,
        default_max_tokens=FLAGS.default_max_tokens,
    )
    return opening.open_model(
        model, shapes, max_waiting=FLAGS.max_waiting, limits=limits
    )


def run() -> int:
    """Serves until it is told to stop."""
    try:
        served = opened()
    except ValueError as error:
        raise DataError(str(error)) from error
    kind = "judging" if served.rewards else "answering"
    fields = dataclasses.fields(listen.Listening)
    values: dict[str, Any] = {field.name: FLAGS[field.name].value for field in fields}
    how = listen.Listening(**values)

    def ready(address: str) -> None:
        print(
            f"{served.model.name}: {kind} at {address}, {FLAGS.rows} at a time, "
            f"up to {served.max_length} tokens each",
            flush=True,
        )

    listen.serve(application.application(served, key=os.environ.get(KEY)), how, ready)
    answered, read, written = served.metrics.totals()
    print(f"{answered:,} requests, {read:,} tokens read, {written:,} written")
    return command.SUCCESS


if __name__ == "__main__":
    command.start(run)

"""Talks to a checkpoint in the terminal, or completes one prompt.

    python -m experiments.sample --checkpoint=models/mine
    python -m experiments.sample --checkpoint=models/mine --prompt="Is the sky blue?"

--checkpoint is a model folder or a Hugging Face checkpoint of Nemotron or Llama. With a
chat template it answers as an assistant; without one, or with --template=none, it
completes the text. An empty line or Ctrl-D ends a talk, `/new` begins another one,
Ctrl-C ends an answer.

Prints the answer as it comes; with --prompt nothing else on stdout. On stderr, at the
end, how many tokens there were and how fast.
"""

import sys
import time

from absl import flags

from nemojax.cli import command
from nemojax.inference.engine import paged
from nemojax.inference.engine.sampling import Sampling
from nemojax.inference.text.talk import Talk
from nemojax.interop import loading
from nemojax.io.files import DataError
from nemojax.models import quantized
from nemojax.parallel import mesh as meshes
from nemojax.training import metrics

FLAGS = flags.FLAGS
flags.DEFINE_string("checkpoint", None, "the model")
flags.DEFINE_string("prompt", None, "answer this, and end; - reads it from stdin")
flags.DEFINE_string("system", "", "system message of a talk")
flags.DEFINE_string(
    "template", "auto", "auto, none, nemotron, llama2, llama3 or a Jinja file"
)
flags.DEFINE_string("dtype", None, "of the computation; default: the checkpoint's")
flags.DEFINE_enum(
    "quantize", None, list(quantized.KINDS), "weights of one byte; default: as they are"
)
flags.DEFINE_integer("tensor", 1, "mesh: the heads are split so often", lower_bound=1)
flags.DEFINE_integer("max_length", 4096, "tokens of prompt and answer", lower_bound=2)
flags.DEFINE_integer("max_tokens", 512, "of an answer", lower_bound=1)
flags.DEFINE_float("temperature", 0.7, "0 is greedy", 0)
flags.DEFINE_float("top_p", 0.95, "only the likeliest that reach it together", 1e-9, 1)
flags.DEFINE_integer("top_k", 0, "only the k likeliest; 0: all", lower_bound=0)
flags.DEFINE_float("repetition_penalty", 1.0, "more than 1 avoids repeating", 0.001)
flags.DEFINE_list("stop", [], "strings that end an answer")
flags.DEFINE_integer("seed", None, "repeats an answer; default: another each time")


def say(talk: Talk, text: str) -> None:
    """Prints the answer as it comes; Ctrl-C ends it."""
    answer = talk.ask(text)
    try:
        for piece in answer:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" ...", end="")
    finally:
        answer.close()
    print(flush=True)


def converse(talk: Talk) -> None:
    """Asks and answers until there is nothing more to ask."""
    while True:
        try:
            asked = input("> ").strip()
        except EOFError:
            print()
            return
        if not asked:
            return
        if asked == "/new":
            talk.restart()
        else:
            say(talk, asked)


def begin() -> Talk:
    """The model that the flags name, ready to talk."""
    model = loading.load(
        FLAGS.checkpoint,
        meshes.make_mesh(tensor=FLAGS.tensor),
        template=FLAGS.template,
        dtype=FLAGS.dtype,
        quantize=FLAGS.quantize,
    )
    how = Sampling(
        temperature=FLAGS.temperature,
        top_k=FLAGS.top_k,
        top_p=FLAGS.top_p,
        repetition_penalty=FLAGS.repetition_penalty,
        seed=time.time_ns() if FLAGS.seed is None else FLAGS.seed,
        max_tokens=FLAGS.max_tokens,
    )
    length = min(FLAGS.max_length, model.config.max_positions)
    return Talk(
        paged.taken_over(model),
        how,
        max_length=length,
        system=FLAGS.system,
        stop=FLAGS.stop,
    )


def run() -> int:
    """Loads the model, and talks."""
    if not FLAGS.checkpoint:
        raise DataError("name the model: --checkpoint=FOLDER")
    try:
        talk = begin()
        if FLAGS.prompt is None:
            converse(talk)
        else:
            say(talk, sys.stdin.read() if FLAGS.prompt == "-" else FLAGS.prompt)
    except ValueError as error:
        raise DataError(str(error)) from error
    if talk.seconds:
        speed = talk.tokens / talk.seconds
        took = metrics.format_seconds(talk.seconds)
        print(f"{talk.tokens} tokens in {took}, {speed:.1f}/s", file=sys.stderr)
    return command.SUCCESS


if __name__ == "__main__":
    command.start(run)

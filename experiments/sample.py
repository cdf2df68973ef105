"""A chat with a checkpoint in the terminal, or the completion of one prompt.

    python -m experiments.sample --model=models/mine
    python -m experiments.sample --model=models/mine --prompt="Is the sky blue?"

--model is a model folder, the folder of a run that made one, or a Hugging Face
checkpoint of Nemotron or Llama. With a
chat template it answers as an assistant; without one, or with --template=none, it
completes the text. An empty line or Ctrl-D ends the session, `/new` begins another one,
Ctrl-C ends an answer.

Prints the answer as it comes; with --prompt nothing else on stdout. On stderr, at the
end, how many tokens there were and how fast.
"""

import sys
import time

from absl import flags

from nemojax.cli import command, model_flags
from nemojax.inference.engine import paged
from nemojax.inference.engine.sampling import Sampling
from nemojax.inference.text.chat_session import ChatSession
from nemojax.io import progress

FLAGS = flags.FLAGS
model_flags.define(model_flags.Mesh(), kinds=True)
flags.DEFINE_string("prompt", None, "answer this, and end; - reads it from stdin")
flags.DEFINE_string("system", "", "system message of a session")
flags.DEFINE_integer("length", 4096, "tokens of prompt and answer", lower_bound=2)
flags.DEFINE_integer("max_tokens", 512, "tokens of an answer", lower_bound=1)
flags.DEFINE_float("temperature", 0.7, "0 is greedy", 0)
flags.DEFINE_float("top_p", 0.95, "only the likeliest that reach it together", 1e-9, 1)
flags.DEFINE_integer("top_k", 0, "only the k likeliest; 0: all", lower_bound=0)
flags.DEFINE_float("repetition_penalty", 1.0, "more than 1 avoids repeating", 0.001)
flags.DEFINE_list("stop", [], "strings that end an answer")
flags.DEFINE_integer("seed", None, "repeats an answer; default: another each time")
command.define_json()


def say(session: ChatSession, text: str) -> str:
    """Prints the answer as it comes, and returns it; Ctrl-C ends it."""
    answer, parts = session.ask(text), []
    to = sys.stderr if FLAGS.json == "-" else sys.stdout
    try:
        for part in answer:
            print(part, end="", flush=True, file=to)
            parts.append(part)
    except KeyboardInterrupt:
        print(" ...", end="", file=to)
    finally:
        answer.close()
    print(flush=True, file=to)
    return "".join(parts)


def converse(session: ChatSession) -> None:
    """Prompts the user and responds until the input ends."""
    while True:
        try:
            prompt = input("> ").strip()
        except EOFError:
            print()
            return
        if not prompt:
            return
        if prompt == "/new":
            session.restart()
        else:
            say(session, prompt)


def begin() -> ChatSession:
    """Loads the model that the flags name, ready to chat."""
    model = model_flags.load()
    sampling = Sampling(
        temperature=FLAGS.temperature,
        top_k=FLAGS.top_k,
        top_p=FLAGS.top_p,
        repetition_penalty=FLAGS.repetition_penalty,
        seed=time.time_ns() if FLAGS.seed is None else FLAGS.seed,
        max_tokens=FLAGS.max_tokens,
    )
    length = min(FLAGS.length, model.config.max_positions)
    return ChatSession(
        paged.to_engine_params(model, donate=True),
        sampling,
        max_length=length,
        system=FLAGS.system,
        stop=FLAGS.stop,
    )


def run() -> int:
    """Loads the model, and talks."""
    session, result = begin(), {}
    if FLAGS.prompt is None:
        converse(session)
    else:
        prompt = sys.stdin.read() if FLAGS.prompt == "-" else FLAGS.prompt
        result["answer"] = say(session, prompt)
    if session.seconds:
        speed = session.tokens / session.seconds
        took = progress.format_seconds(session.seconds)
        print(f"{session.tokens} tokens in {took}, {speed:.1f}/s", file=sys.stderr)
    result |= {"tokens": session.tokens, "seconds": session.seconds}
    command.write_json(result, FLAGS.json)
    return command.SUCCESS


if __name__ == "__main__":
    command.start(run)

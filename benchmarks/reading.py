"""How fast tokenized text is read into batches.

    python -m benchmarks.reading --data=tokens

Batches of a blend as pretraining takes them, one after the other in one thread, from
files that the operating system has at hand. Prints tokens per second.
"""

import statistics
import time

from absl import app, flags

from nemojax.data.pretraining import blends, samples, token_files
from nemojax.data.pretraining.token_corpus import TokenCorpus

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "folder of tokenized text", required=True)
flags.DEFINE_integer("batch", 8, "samples of a batch")
flags.DEFINE_integer("sequence_length", 256, "tokens of a sample")
flags.DEFINE_integer("batches", 500, "of a turn")
flags.DEFINE_integer("turns", 5, "the first is not counted")


def main(argv: list[str]) -> None:
    del argv
    corpus = TokenCorpus(FLAGS.data)
    count = FLAGS.batch * FLAGS.batches
    tokens = corpus.totals(token_files.TRAINING)
    wanted = blends.components(blends.NEMOTRON, tokens, count * FLAGS.sequence_length)
    part = samples.BlendPhase(0, tuple(wanted))
    source = samples.Samples(corpus, [part], FLAGS.sequence_length, seed=0)
    speeds = []
    for _ in range(FLAGS.turns):
        start = time.perf_counter()
        for k in range(FLAGS.batches):
            source.batch(k * FLAGS.batch, FLAGS.batch)
        seconds = time.perf_counter() - start
        speeds.append(count * FLAGS.sequence_length / seconds)
    speeds = speeds[1:]
    print(
        f"{statistics.median(speeds):,.0f} tokens/s "
        f"({min(speeds):,.0f} to {max(speeds):,.0f})"
    )


if __name__ == "__main__":
    app.run(main)

"""Tokenization of text into files, once, for any number of pretraining runs.

    python -m experiments.tokenize --data=DATA --tokenizer=tokenizer.model --out=tokens

Reads DATA/pretrain/<class>-* (.jsonl, .json, their .gz or .zst, .parquet; fields text
and, if known, source and language). Held-out text is DATA/pretrain/dev-<class>*, or for
a class without such files --held_out_share of its documents, chosen by a hash of the
text. Writes ArrayRecords with checksums and an index. An interrupted run goes on where
it was when the same command is given again, and the same files come of it whatever the
number of processes. Rows without usable text are kept apart, counted and named.
"""

import os

from absl import flags

from nemojax.cli import command
from nemojax.data.pretraining import token_corpus
from nemojax.data.text import tokenizer
from nemojax.io.progress import Progress

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "folder of the data files", required=True)
flags.DEFINE_string("tokenizer", None, "a SentencePiece model", required=True)
flags.DEFINE_string("out", None, "folder to write", required=True)
flags.DEFINE_integer("workers", 0, "processes that tokenize; 0: one per core", 0)
flags.DEFINE_float(
    "held_out_share", 0.01, "share of the documents of a class without dev files", 0, 1
)
flags.DEFINE_float("max_bad_fraction", 0.05, "of the rows that may be malformed", 0, 1)
command.define_json()


def run() -> int:
    """Tokenizes what is not done yet."""
    model = tokenizer.Tokenizer.load(FLAGS.tokenizer)
    todo = token_corpus.jobs(FLAGS.data, FLAGS.out, FLAGS.held_out_share)
    progress = Progress("tokenize (kB)")
    index = token_corpus.tokenize(
        todo,
        model,
        FLAGS.out,
        processes=FLAGS.workers or os.cpu_count() or 1,
        max_bad_fraction=FLAGS.max_bad_fraction,
        progress=lambda done, total: progress.show(done // 1000, total // 1000),
    )
    lines = [
        f"{name:24} {counts['documents']:>12,} documents {counts['tokens']:>16,} "
        f"tokens, {counts['bytes'] / max(counts['tokens'], 1):.2f} bytes each"
        for name, counts in index["totals"].items()
    ]
    if index["rejects"]:
        lines.append(f"{index['rejects']:,} rows without text: *.rejects.jsonl")
    tokens = sum(counts["tokens"] for counts in index["totals"].values())
    lines.append(f"{tokens:,} tokens in {len(index['files'])} files: {FLAGS.out}")
    command.print_result(index, "\n".join(lines), FLAGS.json)
    return command.SUCCESS


if __name__ == "__main__":
    command.start(run)

"""Text to tokenized files, once, for any number of pretraining runs.

    python -m experiments.tokenize --data=DATA --tokenizer=tokenizer.model --out=tokens

Reads DATA/pretrain/<class>-* (.jsonl, .json, their .gz or .zst, .parquet; fields text
and, if known, source and language). Held-out text is DATA/pretrain/dev-<class>*, or for
a class without such files --validation_share of its documents, chosen by a hash of the
text. Writes ArrayRecords with checksums and an index. An interrupted run goes on where
it was when the same command is given again, and the same files come of it whatever the
number of processes. Rows without usable text are kept apart, counted and named.
"""

import os
import pathlib

from absl import flags

from nemojax.cli import command
from nemojax.data.pretraining import token_corpus
from nemojax.data.text import tokenizer
from nemojax.io.files import DataError
from nemojax.training.metrics import Progress

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "folder of the data files")
flags.DEFINE_string("tokenizer", None, "a SentencePiece model")
flags.DEFINE_string("out", None, "folder to write")
flags.DEFINE_integer("processes", 0, "that work at a time; 0: one per core")
flags.DEFINE_float("validation_share", 0.01, "of a class without dev files", 0, 1)
flags.DEFINE_float("max_bad_fraction", 0.05, "of the rows that may be malformed", 0, 1)
flags.DEFINE_string("json", None, "also write the result there; - for stdout")


def run() -> int:
    """Tokenizes what is not done yet."""
    for name in ("data", "tokenizer", "out"):
        if not FLAGS[name].value:
            raise DataError(f"name the {name}: --{name}=...")
    try:
        model = tokenizer.Tokenizer(pathlib.Path(FLAGS.tokenizer).read_bytes())
    except ValueError as error:
        raise DataError(f"{FLAGS.tokenizer}: {error}") from error
    todo = token_corpus.jobs(FLAGS.data, FLAGS.out, FLAGS.validation_share)
    kilobytes = sum(job.path.stat().st_size for job in todo) // 1000
    progress = Progress("tokenize (kB)", kilobytes)
    index = token_corpus.tokenize(
        todo,
        model,
        FLAGS.out,
        processes=FLAGS.processes or os.cpu_count() or 1,
        max_bad_fraction=FLAGS.max_bad_fraction,
        progress=lambda done, total: progress.show(done * kilobytes // total),
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
    command.tell(index, "\n".join(lines), FLAGS.json)
    return command.SUCCESS


if __name__ == "__main__":
    command.start(run)

"""Data files of other layouts: to train elsewhere, or to bring several sets into one.

    python -m experiments.convert_data --data=FILES_OR_FOLDERS --to=trl --out=FILE.jsonl

The files (.jsonl, .json, .csv, .parquet, .gz, .zst) are in any format that
docs/data.md lists, each in its own. --to is a layout for

    conversations      messages, nemo_chat, prompt_completion, sharegpt
    preference pairs   trl, nemo_aligner, nemo_rl, openrlhf
    attribute labels   helpsteer, nemo_regression

Of pairs, a layout for conversations gets the prompt and the chosen response. Labelled
responses become conversations only with --drop_labels.

FILE.jsonl appears when it is whole. Rows that give nothing, and rows that the layout
cannot hold, are in FILE.rejects.jsonl with file, row, field and reason; if more than
--max_bad_fraction of all rows are malformed or cannot be held, there is no FILE.jsonl.

Prints the format of each file, the rejected rows by reason, and a last line that says
how many rows were written and where.
"""

import dataclasses

from absl import flags

from nemojax.cli import command
from nemojax.data.rows import conversion, writers

FLAGS = flags.FLAGS
flags.DEFINE_list("data", None, "files and folders", required=True)
flags.DEFINE_enum("to", None, list(writers.TARGETS), "layout to write", required=True)
flags.DEFINE_string("out", None, "file to write; ends in .jsonl", required=True)
flags.DEFINE_bool("drop_labels", False, "make conversations of labelled responses")
flags.DEFINE_float(
    "max_bad_fraction", 0.05, "of the rows that may be malformed or not held", 0, 1
)
command.define_json()


def run() -> int:
    """Converts the files."""
    path = conversion.require_free(FLAGS.out)
    sources = conversion.find(FLAGS.data, FLAGS.to, FLAGS.drop_labels)
    done = conversion.convert(sources, FLAGS.to, path, FLAGS.max_bad_fraction)
    result = {
        "to": FLAGS.to,
        "out": str(path),
        "formats": {str(source.path): source.format for source in sources},
        **dataclasses.asdict(done),
        "rejects": str(done.rejects) if done.rejects else None,
    }
    command.print_result(result, summary(result), FLAGS.json)
    return command.SUCCESS


def summary(result: dict) -> str:
    """Returns the result for people."""
    lines = [
        f"{file}: {name or 'no readable row'}"
        for file, name in result["formats"].items()
    ]
    lines += [f"rejected: {why}: {n:,}" for why, n in result["reasons"].items()]
    if result["rejects"]:
        lines.append(f"rejected rows: {result['rejects']}")
    lines.append(
        f"{result['written']:,} of {result['rows']:,} rows written as {result['to']}: "
        f"{result['out']}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    command.start(run)

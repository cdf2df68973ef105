"""Scores of files of any length: rewards of a reward model, or log-probs of responses.

    python -m experiments.score --model=MODEL --data=FILES_OR_FOLDER --out=scores

MODEL is a model folder or a Hugging Face checkpoint. The files (.jsonl, .json,
.csv, .parquet, .gz, .zst) hold conversations, preference pairs or labelled responses,
in any format of docs/data.md. Rows of part-NNNNN.jsonl, as they come:

    {"file": F, "row": N, "rewards": {"helpfulness": 3.1, ...}}         --kind=rewards
    {"file": F, "row": N, "log_prob": -41.7, "tokens": 23}              --kind=log_probs

The log-prob is the sum over the tokens of the last response and the end of its turn.
Pairs have such values under "chosen" and "rejected". A row without scores is in
part-NNNNN.rejects.jsonl with file, row, field and reason. Killed at any moment, the
same command goes on after the last whole part. NVIDIA's released reward models want
--template=nemotron_reward.

Ends with mean and standard deviation of each value and the rejected rows by reason
(also in summary.json), rows and tokens a second, and one line that says what was made
and where.
"""

import pathlib

from absl import flags

from nemojax.cli import command, model_flags
from nemojax.inference.scoring import file_scoring, scorer
from nemojax.io.progress import Progress
from nemojax.reporting import tables

FLAGS = flags.FLAGS
model_flags.define(model_flags.Mesh(data=0))
flags.DEFINE_list("data", None, "files and folders", required=True)
flags.DEFINE_string("out", None, "folder to write, or to go on in", required=True)
flags.DEFINE_enum(
    "kind",
    scorer.AUTO,
    [scorer.AUTO, scorer.REWARDS, scorer.LOG_PROBS],
    "auto: rewards of a reward model, log_probs of any other",
)
flags.DEFINE_integer("length", 4096, "tokens; longer rows are rejected", 1)
flags.DEFINE_integer("part_rows", 8192, "rows of the input in an output file", 1)
flags.DEFINE_integer("batch_tokens", 0, "slots of a batch; 0: by the device", 0)
flags.DEFINE_float("max_bad_fraction", 0.05, "of the rows that may be malformed", 0, 1)
command.define_json()


def run() -> int:
    """Scores what is not scored yet."""
    data = file_scoring.InputFiles.find(FLAGS.data)
    how = make_scorer()
    progress = Progress("score (rows)")
    done = [0]  # rows of the calls before this one

    def show(totals: file_scoring.Totals, seconds: float) -> None:
        done[0] = done[0] if seconds else totals.rows
        speed = (totals.rows - done[0]) / seconds if seconds else 0.0
        text = f"{speed:,.0f} rows/s, {totals.rejects.total:,} rejected"
        progress.show(totals.rows, data.total, text)

    result = file_scoring.run(how, data, FLAGS.out, FLAGS.max_bad_fraction, show)
    result["directory"] = str(pathlib.Path(FLAGS.out))
    command.print_result(result, summary(result), FLAGS.json)
    return command.SUCCESS


def make_scorer() -> scorer.Scorer:
    """Loads the model onto all devices.

    Raises:
      UserError: the model cannot be read, or the devices cannot share it so.
    """
    settings = scorer.ScorerConfig(
        FLAGS.kind, FLAGS.length, FLAGS.part_rows, FLAGS.template
    )
    return scorer.Scorer(model_flags.load(), settings, FLAGS.batch_tokens)


def summary(result: dict) -> str:
    """Returns the result for people."""
    lines = [
        f"{name:<24} mean {value['mean']:>10.4f}  std {value['std']:>9.4f}"
        f"  n {value['n']:>12,}"
        for name, value in result["values"].items()
    ]
    lines += [f"rejected: {why}: {n:,}" for why, n in result["rejected"].items()]
    lines.append(
        f"{result['scored']:,} of {result['rows']:,} rows scored ({result['kind']}); "
        f"{result['rows_per_second']:,.0f} rows/s, "
        f"{result['tokens_per_second']:,.0f} tokens/s in "
        f"{tables.duration(result['seconds'])} of this call"
    )
    files = f"{result['parts']} files part-*.jsonl"
    return "\n".join([*lines, f"{files}: {result['directory']}"])


if __name__ == "__main__":
    command.start(run)

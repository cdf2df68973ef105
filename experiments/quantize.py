"""Cost of one-byte weights: KL divergence and perplexity against the model's own.

    python -m experiments.quantize --model=MODEL --data=FILE[,FILE...]

MODEL is a model folder or a Hugging Face checkpoint with its tokenizer; FILE is text
(.txt) or rows with a field `text` (.jsonl, .json, their .gz or .zst, .parquet). Takes
--tokens in equal parts of the files. The model computes in bfloat16 (--dtype).

Prints for each kind of weights the mean KL divergence of the next-token distributions
from those of the full weights, how often both find the same token likeliest, the
perplexities, and the bytes of the parameters. Both models are in memory at once. A 10M
model and 60,000 tokens take about a minute on a CPU.
"""

import pathlib
from collections.abc import Iterator

from absl import flags

from nemojax.cli import command, command_line, model_flags
from nemojax.data.pretraining import corpus
from nemojax.io import files
from nemojax.io.files import DataError

FLAGS = flags.FLAGS
model_flags.define(model_flags.Mesh(), dtype="bfloat16", template=False)
flags.DEFINE_list("data", None, "files of text", required=True)
flags.DEFINE_list("kinds", ["int8", "fp8"], "kinds of weights to compare")
flags.DEFINE_integer("tokens", 65_536, "tokens of the text to take", lower_bound=2)
flags.DEFINE_integer("length", 512, "tokens of a row", lower_bound=2)
flags.DEFINE_integer("batch", 8, "rows of a call", lower_bound=1)
command.define_json()


def texts(path: str, quarantine: files.Quarantine) -> Iterator[str]:
    """Returns the texts of a file."""
    if path.endswith(".txt"):
        try:
            yield pathlib.Path(path).read_text()
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error
        return
    # The class is a label that is not looked at.
    for document in corpus.read_documents(path, corpus.TEXT_CLASSES[0], quarantine):
        yield document.text


def take(tokenizer, quarantine: files.Quarantine) -> Iterator[list[int]]:
    """Returns tokens of texts, of each file the same number."""
    for path in FLAGS.data:
        left = FLAGS.tokens // len(FLAGS.data)
        for text in texts(path, quarantine):
            tokens = [*tokenizer.prefix, *tokenizer.encode(text)][:left]
            yield tokens
            left -= len(tokens)
            if not left:
                break


def measure() -> dict:
    """Measures what the flags request, for programs."""
    from nemojax.inference.scoring import fidelity
    from nemojax.interop import loading
    from nemojax.models import quantized

    for kind in FLAGS.kinds:
        quantized.check(kind)
    model = model_flags.load(template=loading.NONE)
    quarantine = files.Quarantine()
    rows = fidelity.rows_of(take(model.tokenizer, quarantine), FLAGS.length)
    full = quantized.nbytes(model.params, FLAGS.dtype)
    found = {"dtype": FLAGS.dtype, "bytes": full, "kinds": {}}
    found["rejects"] = quarantine.total
    for kind in FLAGS.kinds:
        params = quantized.quantize(model.params, kind)
        one = fidelity.compare(
            model.config, model.params, params, *rows, mesh=model.mesh, rows=FLAGS.batch
        )
        size = quantized.nbytes(params, FLAGS.dtype)
        found["kinds"][kind] = {**one._asdict(), "change": one.change, "bytes": size}
    return found


def table(found: dict) -> str:
    """Returns the result for people."""
    first = next(iter(found["kinds"].values()))
    lines = [
        f"{first['tokens']:,} tokens; {found['rejects']} rows without text",
        f"{'weights':<10}{'KL (nats)':>11}{'same':>8}{'perplexity':>12}"
        f"{'change':>10}{'MB':>12}",
        f"{found['dtype']:<10}{0:11.6f}{1:8.2%}{first['reference_perplexity']:12.4f}"
        f"{0:+10.3%}{found['bytes'] / 1e6:12,.1f}",
    ]
    lines += [
        f"{kind:<10}{one['kl']:11.6f}{one['same']:8.2%}{one['perplexity']:12.4f}"
        f"{one['change']:+10.3%}{one['bytes'] / 1e6:12,.1f}"
        for kind, one in found["kinds"].items()
    ]
    return "\n".join(lines)


def run() -> int:
    """Measures and tells."""
    command_line.require("data", "kinds")
    found = measure()
    command.print_result(found, table(found), FLAGS.json)
    return command.SUCCESS


if __name__ == "__main__":
    command.start(run)

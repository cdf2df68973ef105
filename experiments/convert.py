"""Weights between Hugging Face or NeMo checkpoints and model folders of nemojax.

    python -m experiments.convert --from_hf=DIR --out=MODEL
    python -m experiments.convert --from_nemo=FILE_OR_DIR --out=MODEL
    python -m experiments.convert --model=MODEL --to_hf=DIR

Reads Nemotron and Llama checkpoints (safetensors) and NeMo's released Nemotron
archives, which are unpacked into the temporary folder (TMPDIR) first. What it writes
loads in `transformers`. Every tensor keeps its dtype and its bits.
Parameters are read and written one after the other; docs/benchmarks.md has the memory.

Prints progress on stderr, then one line that says what was made and where. The output
appears under its name only when all of it is written. Takes about as long as the disk
takes to read and write the files.
"""

import pathlib
import time
from typing import Any

import jax
from absl import flags

from nemojax.cli import command
from nemojax.errors import UserError
from nemojax.interop import (
    archives,
    find,
    huggingface,
    model_folder,
    nemo,
    tokenizer_files,
)
from nemojax.io.progress import Progress
from nemojax.reporting import tables

FLAGS = flags.FLAGS
flags.DEFINE_string("from_hf", None, "a Hugging Face checkpoint to read")
flags.DEFINE_string("from_nemo", None, "a .nemo file, or its unpacked directory")
flags.DEFINE_string("model", None, "a model folder to read, or the folder of a run")
flags.DEFINE_string("out", None, "a model folder to write")
flags.DEFINE_string("to_hf", None, "a Hugging Face checkpoint to write")
flags.DEFINE_integer("vocab_size", None, "rows of the embeddings to write (--to_hf)")
command.define_json()

PAIRS = (("from_hf", "out"), ("from_nemo", "out"), ("model", "to_hf"))


def to_model(
    directory: pathlib.Path, target: pathlib.Path, reader: Any, files: Any
) -> int:
    """Writes a checkpoint that `reader` reads to a model folder; returns its leaves."""
    total = 0

    def counted():
        nonlocal total
        for path, leaf in reader.leaves(
            directory, progress=Progress("parameters").show
        ):
            total += leaf.size
            yield path, leaf
            del leaf  # or it would stay in memory beside the next

    model_folder.write(target, reader.read_config(directory), counted(), files)
    return total


def to_hf(source: pathlib.Path, target: pathlib.Path, vocab_size: int | None) -> int:
    """Writes a model folder to Hugging Face; returns the number of parameters."""
    config, params = model_folder.read_config(source), model_folder.stored(source)
    files = tokenizer_files.find(source)
    huggingface.save(
        target,
        config,
        params,
        tokenizer_files.own(files),
        files=files,
        vocab_size=vocab_size,
        progress=Progress("tensors").show,
    )
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def convert(kind: str, source: pathlib.Path, target: pathlib.Path) -> int:
    """Converts from what the flag `kind` names; returns the number of parameters."""
    if kind == "model":
        return to_hf(source, target, FLAGS.vocab_size)
    if kind == "from_hf":
        return to_model(source, target, huggingface, tokenizer_files.find(source))
    with archives.opened(source) as directory:
        return to_model(directory, target, nemo, nemo.tokenizer_files(directory))


def run() -> int:
    """Converts what the flags name and says what was made."""
    names = ("from_hf", "from_nemo", "model", "out", "to_hf")
    given = [name for name in names if FLAGS[name].value]
    if tuple(given) not in PAIRS:
        raise UserError(
            "give --from_hf or --from_nemo with --out, or --model with --to_hf"
        )
    source, target = (pathlib.Path(str(FLAGS[name].value)) for name in given)
    source = find.find_model(source) if given[0] == "model" else source
    start = time.monotonic()
    parameters = convert(given[0], source, target)
    seconds = time.monotonic() - start
    result = {
        "directory": str(target),
        "parameters": parameters,
        "seconds": round(seconds, 1),
    }
    text = f"{parameters:,} parameters in {tables.duration(seconds)}: {target}"
    command.print_result(result, text, FLAGS.json)
    return command.SUCCESS


if __name__ == "__main__":
    command.start(run)

"""Weights between Hugging Face or NeMo checkpoints and model folders of nemojax.

    python -m experiments.convert --from_hf=DIR --to=MODEL
    python -m experiments.convert --from_nemo=FILE_OR_DIR --to=MODEL
    python -m experiments.convert --from=MODEL --to_hf=DIR

Reads Nemotron and Llama checkpoints (safetensors) and NeMo's released Nemotron
archives, which are unpacked into the temporary folder (TMPDIR) first. What it writes
loads in `transformers`. Every tensor keeps its dtype and its bits, and one parameter
is in memory at a time.

Prints progress on stderr, then one line that says what was made and where. The output
appears under its name only when all of it is written. Takes about as long as the disk
takes to read and write the files.
"""

import json
import pathlib
import sys
import time

import jax
from absl import app, flags

from nemojax.data.files import DataError
from nemojax.evals import tables
from nemojax.interop import archives, huggingface, nemo
from nemojax.recipe import command
from nemojax.training import model_folder

FLAGS = flags.FLAGS
flags.DEFINE_string("from_hf", None, "a Hugging Face checkpoint to read")
flags.DEFINE_string("from_nemo", None, "a .nemo file, or its unpacked directory")
flags.DEFINE_string("from", None, "a model folder to read")
flags.DEFINE_string("to", None, "a model folder to write")
flags.DEFINE_string("to_hf", None, "a Hugging Face checkpoint to write")
flags.DEFINE_integer("vocab_size", None, "rows of the embeddings to write (--to_hf)")
flags.DEFINE_string("json", None, "also write the result there; - for stdout")

# Beside the weights: what a user of the model needs of the tokenizer.
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


def from_hf(source: pathlib.Path, target: pathlib.Path) -> int:
    """Hugging Face to a model folder; returns the number of parameters."""
    config = huggingface.read_config(source)
    leaves = Counted(huggingface.leaves(source, progress=Progress("parameter")))
    model_folder.write(target, config, leaves, tokenizer_files(source))
    return leaves.total


def from_nemo(source: pathlib.Path, target: pathlib.Path) -> int:
    """A NeMo archive to a model folder; returns the number of parameters."""
    with archives.opened(source) as directory:
        config = nemo.read_config(directory)
        leaves = nemo.leaves(directory, progress=Progress("parameter"))
        counted = Counted(leaves)
        model_folder.write(target, config, counted, nemo.tokenizer_files(directory))
    return counted.total


class Counted:
    """Passes leaves on and adds up their sizes."""

    def __init__(self, leaves):
        self.leaves, self.total = leaves, 0

    def __iter__(self):
        for path, leaf in self.leaves:
            self.total += leaf.size
            yield path, leaf


def to_hf(source: pathlib.Path, target: pathlib.Path, vocab_size: int | None) -> int:
    """A model folder to Hugging Face; returns the number of parameters."""
    config = model_folder.read_config(source)
    params = model_folder.stored(source)
    huggingface.save(
        target,
        config,
        params,
        vocab_size=vocab_size,
        files=tokenizer_files(source),
        progress=Progress("tensor"),
    )
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def tokenizer_files(directory: pathlib.Path) -> list[pathlib.Path]:
    """The files of the tokenizer that lie beside the weights."""
    paths = (directory / name for name in TOKENIZER_FILES)
    return [path for path in paths if path.is_file()]


class Progress:
    """A progress line on stderr, about once a second, with the time left."""

    def __init__(self, unit: str):
        self.unit = unit
        self.start = self.shown = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.shown < 1 and done < total:
            return
        self.shown = now
        left = (now - self.start) / max(done, 1) * (total - done)
        text = f"{self.unit} {done}/{total}  {tables.duration(left)} left"
        print(text, file=sys.stderr, flush=True)


def run() -> int:
    """Converts what the flags name and says what was made."""
    flag_names = ("from_hf", "from_nemo", "from", "to", "to_hf")
    values = {name: FLAGS[name].value for name in flag_names}
    given = [name for name, value in values.items() if value]
    if given not in (["from_hf", "to"], ["from_nemo", "to"], ["from", "to_hf"]):
        raise DataError(
            "give --from_hf or --from_nemo with --to, or --from with --to_hf"
        )
    source, target = (pathlib.Path(str(values[name])) for name in given)
    start = time.monotonic()
    try:
        if given[0] == "from_hf":
            parameters = from_hf(source, target)
        elif given[0] == "from_nemo":
            parameters = from_nemo(source, target)
        else:
            parameters = to_hf(source, target, FLAGS.vocab_size)
    except ValueError as error:
        raise DataError(str(error)) from error
    seconds = time.monotonic() - start
    result = {
        "directory": str(target),
        "parameters": parameters,
        "seconds": round(seconds, 1),
    }
    quiet = FLAGS.json == "-"
    if FLAGS.json:
        text = json.dumps(result) + "\n"
        if quiet:
            sys.stdout.write(text)
        else:
            pathlib.Path(FLAGS.json).write_text(text)
    print(
        f"{parameters:,} parameters in {tables.duration(seconds)}: {target}",
        file=sys.stderr if quiet else sys.stdout,
    )
    return command.SUCCESS


def main(argv: list[str]) -> None:
    """Checks the arguments; `command.main` explains what goes wrong."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    sys.exit(command.main(run))


if __name__ == "__main__":
    app.run(main)

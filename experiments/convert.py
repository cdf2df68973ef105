"""Weights between Hugging Face or NeMo checkpoints and model folders of nemojax.

    python -m experiments.convert --from_hf=DIR [--adapter=DIR] --out=MODEL
    python -m experiments.convert --from_nemo=FILE_OR_DIR --out=MODEL
    python -m experiments.convert --model=MODEL --to_hf=DIR

Reads Nemotron and Llama checkpoints (safetensors) and NeMo's released Nemotron
archives, which are unpacked into the temporary folder (TMPDIR) first. LoRA adapters of
PEFT are merged. What it writes loads in `transformers`, a reward model as a sequence
classifier (docs/interop.md). Every tensor keeps its dtype and its bits.
Parameters are read and written one after the other; docs/benchmarks.md has the memory.

Prints progress on stderr, then one line that says what was made and where. The output
appears under its name only when all of it is written. Takes about as long as the disk
takes to read and write the files.
"""

import pathlib
import time

from absl import flags

from nemojax.cli import command
from nemojax.errors import UserError
from nemojax.interop import conversion
from nemojax.reporting import tables

FLAGS = flags.FLAGS
flags.DEFINE_string("from_hf", None, "a Hugging Face checkpoint to read")
flags.DEFINE_string("adapter", None, "adapters of PEFT to merge (--from_hf)")
flags.DEFINE_string("from_nemo", None, "a .nemo file, or its unpacked directory")
flags.DEFINE_string("model", None, "a model folder to read, or the folder of a run")
flags.DEFINE_string("out", None, "a model folder to write")
flags.DEFINE_string("to_hf", None, "a Hugging Face checkpoint to write")
flags.DEFINE_integer("vocab_size", None, "rows of the embeddings to write (--to_hf)")
command.define_json()

PAIRS = (("from_hf", "out"), ("from_nemo", "out"), ("model", "to_hf"))
CONVERT = {
    "from_hf": conversion.from_hugging_face,
    "from_nemo": conversion.from_nemo,
    "model": conversion.to_hugging_face,
}
OPTIONS = {"adapter": "from_hf", "vocab_size": "model"}  # flag -> what it goes with


def run() -> int:
    """Converts what the flags name and says what was made."""
    names = ("from_hf", "from_nemo", "model", "out", "to_hf")
    given = [name for name in names if FLAGS[name].value]
    if tuple(given) not in PAIRS:
        raise UserError(
            "give --from_hf or --from_nemo with --out, or --model with --to_hf"
        )
    source, target = (pathlib.Path(str(FLAGS[name].value)) for name in given)
    options = {}
    for name, partner in OPTIONS.items():
        if FLAGS[name].value is not None:
            if given[0] != partner:
                raise UserError(f"--{name} goes with --{partner}")
            options[name] = FLAGS[name].value
    start = time.monotonic()
    parameters = CONVERT[given[0]](source, target, **options)
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

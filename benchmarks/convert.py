"""What the converter costs: time and memory for a checkpoint of a real size.

    python -m benchmarks.convert --model=minitron_4b --scratch=SCRATCH

Writes a random bfloat16 checkpoint in Hugging Face's layout, converts it to a model
folder and back in processes of their own, and compares every tensor bit by bit.
Prints seconds, gigabytes and peak resident memory of each step. Needs three times the
checkpoint's size on the disk; minitron_4b: 25 GB.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import jax
import ml_dtypes
import numpy as np
from absl import app, flags

from nemojax.interop import huggingface, weights
from nemojax.interop.model_folder import StoredLeaf
from nemojax.models import forward, presets

FLAGS = flags.FLAGS
flags.DEFINE_string("model", "minitron_4b", "a preset")
flags.DEFINE_string("scratch", None, "an empty folder", required=True)


def write_random(directory: pathlib.Path, name: str) -> None:
    """A checkpoint of a preset's shapes, random bits of a plain size."""
    config = presets.get(name)
    rng = np.random.default_rng(0)

    def leaf(shape):
        def load():
            values = np.empty(shape.shape, ml_dtypes.bfloat16)
            for part in values if values.ndim > 1 else [values]:
                part[...] = rng.standard_normal(part.shape, np.float32) * 0.02
            return values

        return StoredLeaf(shape.shape, np.dtype(ml_dtypes.bfloat16), load)

    params = jax.tree.map(leaf, forward.shapes(config))
    huggingface.save(directory, config, params)


def measured(*flags_of: str) -> tuple[float, float]:
    """Seconds and peak GiB of one conversion."""
    start = time.monotonic()
    command = [sys.executable, "-m", "experiments.convert", *flags_of]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.monotonic() - start, usage.ru_maxrss / 2**20


def main(argv: list[str]) -> None:
    """Runs the three steps and prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    scratch = pathlib.Path(FLAGS.scratch)
    there, model, back = (scratch / name for name in ("hf", "model", "back"))
    write_random(there, FLAGS.model)
    size = sum(file.stat().st_size for file in there.iterdir()) / 1e9
    print(f"{FLAGS.model}: {size:.2f} GB of bfloat16")
    for title, arguments in (
        ("Hugging Face to a model folder", (f"--from_hf={there}", f"--out={model}")),
        ("and back", (f"--model={model}", f"--to_hf={back}")),
    ):
        seconds, peak = measured(*arguments)
        print(f"{title}: {seconds:.0f} s, peak {peak:.2f} GiB resident", flush=True)
    one, other = weights.Reader(there), weights.Reader(back)
    same = one.shapes == other.shapes and all(
        np.array_equal(one.read(name).view(np.uint16), other.read(name).view(np.uint16))
        for name in one.shapes
    )
    print(f"{len(one.shapes)} tensors, {'all the same' if same else 'DIFFERENT'}")
    shutil.rmtree(scratch)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    app.run(main)

"""A DPO step here and in TRL's trainer, side by side on the CPU.

    python -m benchmarks.preference --torch_python=/path/to/python

The model of `benchmarks.train_step`, float32, AdamW with clipping, and the same pairs
in the same order, 8 a step. Each side twice: with the reference's log-probs computed
before training, and in each step. Here the sequences are packed into one shape of rows,
the smallest that every step's fit; packing them is a part of the step. TRL's
`DPOTrainer` pads them to the longest of a step and runs as its users run it, but with
neither gradient checkpointing, bfloat16 nor logging, which would slow it down here.

Each is a process of its own; they take turns and wait while another runs. Prints
medians, and the ratio of each turn's seconds. With `--lengths=even` nobody pads.
`--torch_python` is an interpreter with torch, transformers and trl.
"""

import importlib
import itertools
import statistics
import sys
import tempfile
import time

from absl import app, flags

from benchmarks import preference_pairs, torch_model, train_step
from benchmarks.preference_pairs import PairsJob
from nemojax.cli import host

SIDES = ("jax", "trl")
REFERENCES = ("cached", "uncached")
WORKERS = [f"{side}-{kind}" for side in SIDES for kind in REFERENCES]

FLAGS = flags.FLAGS
flags.DEFINE_enum("lengths", "mixed", ["mixed", "even"], "of the sequences")
flags.DEFINE_enum("dpo_worker", None, WORKERS, "what a process measures")

WARM = 2  # steps before the first turn, as in `train_step.work`


def job() -> PairsJob:
    """Which pairs this is about."""
    even = FLAGS.lengths == "even"
    return PairsJob(train_step.CONFIG, even=even, devices=FLAGS.devices)


def work_trl(cached: bool) -> None:
    """As `train_step.work`, from inside of the trainer's own loop."""

    class Turns(importlib.import_module("transformers").TrainerCallback):
        """Stands still between turns."""

        left, start = WARM, 0.0

        def on_step_end(self, args, state, control, **_):
            self.left -= 1
            if self.left:
                return
            seconds = time.perf_counter() - self.start
            print(seconds if self.start else "ready", flush=True)
            control.should_training_stop = not sys.stdin.readline()
            self.left, self.start = FLAGS.steps, time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        params = train_step.initial(train_step.CONFIG)
        trainer = preference_pairs.trl_trainer(
            job(), lambda: torch_model.build(train_step.CONFIG, params), cached, folder
        )
        trainer.add_callback(Turns())
        trainer.train()


def report(seconds: dict[str, list[float]]) -> None:
    """Prints what the turns took."""
    asked = job()
    batches = preference_pairs.pairs(asked)
    sizes = [preference_pairs.lengths(batch) for batch in batches]
    tokens = [sum(some) for some in sizes]
    padded = [len(some) * max(some) for some in sizes]
    rows, length = preference_pairs.shape(asked, batches)
    print(
        f"a step: {asked.pairs} pairs, {statistics.mean(tokens):,.0f} tokens; "
        f"slots here {rows} x {length} = {rows * length:,}, "
        f"in TRL {statistics.mean(padded):,.0f}"
    )
    for name in WORKERS:
        taken = itertools.islice(itertools.cycle(tokens), WARM, None)
        speeds = [
            sum(itertools.islice(taken, FLAGS.steps)) / turn for turn in seconds[name]
        ]
        print(
            f"{name:12} {statistics.median(seconds[name]) / FLAGS.steps:.3f} s/step, "
            f"{statistics.median(speeds):,.0f} tokens/s"
        )
    compared = [(f"trl-{kind}", f"jax-{kind}") for kind in REFERENCES]
    compared += [(f"{side}-uncached", f"{side}-cached") for side in SIDES]
    for slow, fast in compared:
        ratios = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
        print(
            f"{slow} / {fast}: {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def main(argv: list[str]) -> None:
    del argv
    if FLAGS.dpo_worker:
        side, kind = FLAGS.dpo_worker.split("-")
        if side == "trl":
            return work_trl(kind == "cached")
        host.cpu_devices(FLAGS.devices)
        host.keep_memory()
        return train_step.work(preference_pairs.jax_step(job(), kind == "cached"))
    sizes = [f"--{name}={FLAGS[name].value}" for name in ("steps", "devices")]
    workers = {
        name: train_step.Worker(
            FLAGS.torch_python if name.startswith("trl") else sys.executable,
            "benchmarks.preference",
            f"--dpo_worker={name}",
            f"--lengths={FLAGS.lengths}",
            *sizes,
        )
        for name in WORKERS
    }
    turns = [
        {name: worker.turn() for name, worker in workers.items()}
        for _ in range(FLAGS.turns)
    ]
    report({name: [turn[name] for turn in turns] for name in WORKERS})
    for worker in workers.values():
        worker.process.terminate()
    return None


if __name__ == "__main__":
    app.run(main)

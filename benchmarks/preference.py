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
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks import torch_model, train_step
from nemojax.cli import host
from nemojax.data.batching import packing
from nemojax.data.batching.example_batches import ExampleBatches
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from nemojax.training import objectives, optimizer, placement, step
from nemojax.training.objectives import PreferenceBatch, PreferenceConfig

SIDES = ("jax", "trl")
REFERENCES = ("cached", "uncached")
WORKERS = [f"{side}-{kind}" for side in SIDES for kind in REFERENCES]

FLAGS = flags.FLAGS
flags.DEFINE_enum("lengths", "mixed", ["mixed", "even"], "of the sequences")
flags.DEFINE_enum("dpo_worker", None, WORKERS, "what a process measures")

PAIRS, BATCHES = 8, 12  # pairs of a step, and steps until they come again
WARM = 2  # steps before the first turn, as in `train_step.work`
BETA = 0.1
CONFIG = train_step.CONFIG
# The policy stays near its reference, where losses and gradients are of usual size.
RATE, ADAM = 1e-6, train_step.ADAM
END = 0  # the token that ends each answer

# A prompt's tokens, the chosen answer's and the rejected one's.
Pair = tuple[list[int], list[int], list[int]]


def pairs() -> list[list[Pair]]:
    """Those of each step."""
    rng = np.random.default_rng(0)

    def size(median: int, least: int, most: int) -> int:
        if FLAGS.lengths == "even":
            return median
        return int(np.clip(rng.lognormal(np.log(median), 0.6), least, most))

    def words(count: int) -> list[int]:
        return rng.integers(1, CONFIG.vocab_size, count).tolist()

    def pair() -> Pair:
        answers = [[*words(size(80, 8, 384) - 1), END] for _ in range(2)]
        return words(size(48, 16, 128)), answers[0], answers[1]

    return [[pair() for _ in range(PAIRS)] for _ in range(BATCHES)]


def sequences(batch: Sequence[Pair]) -> list[list[packing.TokenSequence]]:
    """Both sequences of each pair, with their loss masks."""
    return [
        [
            (prompt + answer, [0] * len(prompt) + [1] * len(answer))
            for answer in (chosen, rejected)
        ]
        for prompt, chosen, rejected in batch
    ]


def lengths(batch: Sequence[Pair]) -> list[int]:
    """Tokens of each sequence."""
    return [len(tokens) for group in sequences(batch) for tokens, _ in group]


def packed(batch: Sequence[Pair], rows: int, length: int) -> packing.PackedBatch | None:
    """The batch in one shape; None if it does not fit."""
    found = ExampleBatches(
        sequences(batch), batch=PAIRS, length=length, seed=None, row_multiple=rows
    )
    return found.parts(0)[0] if found.rows == rows else None


def shape(batches: Sequence[Sequence[Pair]], devices: int) -> tuple[int, int]:
    """Rows and their length: the fewest slots that hold any batch.

    Devices share the rows evenly, and no row is twice as long as the longest sequence,
    since attention takes the square of it.
    """
    longest = max(size for batch in batches for size in lengths(batch))
    shapes = itertools.product(
        range(devices, 2 * PAIRS + devices, devices),
        range(-(-longest // 32) * 32, 2 * longest, 32),
    )
    return next(
        rows_and_length
        for rows_and_length in sorted(shapes, key=lambda pair: pair[0] * pair[1])
        if all(packed(batch, *rows_and_length) for batch in batches)
    )


def jax_step(cached: bool) -> Callable[[int], None]:
    """(number) -> takes so many steps."""
    batches = pairs()
    rows, length = shape(batches, FLAGS.devices)
    layout = Layout(meshes.make_mesh(data=FLAGS.devices))
    adam = optimizer.make_optimizer(ADAM)
    preference = PreferenceConfig("dpo", beta=BETA)
    objective = objectives.preference_objective(CONFIG, preference, layout)
    train = step.make_train_step(objective, adam)
    params = train_step.initial(CONFIG)
    state = step.init_state(params, adam)
    shardings = placement.state_shardings(state, layout)
    state = [placement.put(state, shardings)]
    params = placement.put(params, shardings.params)

    @jax.jit
    def reference(params, text, ids):
        return objectives.sequence_log_probs(
            CONFIG, params, text, ids, 2 * PAIRS, layout
        )

    def without_reference(k: int) -> PreferenceBatch:
        found = packed(batches[k % BATCHES], rows, length)
        assert found is not None
        nothing = np.zeros(2 * PAIRS, np.float32)
        valid = np.ones(PAIRS, np.float32)
        batch = PreferenceBatch(
            found.batch, found.sequence_ids, nothing, nothing, 0 * valid, valid
        )
        return placement.place_batch(batch, layout)

    def compute(batch: PreferenceBatch) -> jax.Array:
        return reference(params, batch.text, batch.sequence_ids)

    stored = [
        np.asarray(compute(without_reference(k))) for k in range(BATCHES) if cached
    ]
    taken = itertools.count()

    def run(number: int) -> None:
        for k in itertools.islice(taken, number):
            batch = without_reference(k)
            values = stored[k % BATCHES] if cached else compute(batch)
            batch = batch._replace(reference=values)
            state[0], _ = train(state[0], batch, np.float32(RATE))
        jax.block_until_ready(state[0].step)

    return run


def tokenizer() -> Any:
    """Of transformers: a word is a token, the decimals of its number."""
    tokenizers = importlib.import_module("tokenizers")
    words = {str(k): k for k in range(CONFIG.vocab_size) if k != END} | {"<end>": END}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return importlib.import_module("transformers").PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<end>", pad_token="<end>"
    )


def as_text(pair: Pair) -> dict[str, str]:
    """What `tokenizer` makes the pair of; TRL ends the answers itself."""
    prompt, *answers = (" ".join(map(str, tokens)) for tokens in pair)
    chosen, rejected = (f" {text.removesuffix(f' {END}')}" for text in answers)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def trl_trainer(cached: bool, folder: str) -> Any:
    """TRL's trainer, which does not end by itself."""
    datasets = importlib.import_module("datasets")
    trl = importlib.import_module("trl")
    datasets.disable_progress_bars()
    params = train_step.initial(CONFIG)
    flat = [pair for batch in pairs() for pair in batch]
    settings = trl.DPOConfig(
        output_dir=folder,
        max_steps=10**6,
        per_device_train_batch_size=PAIRS,
        precompute_ref_log_probs=cached,
        beta=BETA,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        adam_beta1=ADAM.beta1,
        adam_beta2=ADAM.beta2,
        adam_epsilon=ADAM.epsilon,
        weight_decay=ADAM.weight_decay,
        max_grad_norm=ADAM.clip_norm,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
    )
    trainer = trl.DPOTrainer(
        torch_model.build(CONFIG, params),
        ref_model=None if cached else torch_model.build(CONFIG, params),
        args=settings,
        train_dataset=datasets.Dataset.from_list([as_text(pair) for pair in flat]),
        processing_class=tokenizer(),
    )
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    for row, pair in zip(trainer.train_dataset, flat, strict=True):
        assert tuple(row[name] for name in names) == pair
    return trainer


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
        trainer = trl_trainer(cached, folder)
        trainer.add_callback(Turns())
        trainer.train()


def report(seconds: dict[str, list[float]]) -> None:
    """Prints what the turns took."""
    batches = pairs()
    tokens = [sum(lengths(batch)) for batch in batches]
    padded = [2 * PAIRS * max(lengths(batch)) for batch in batches]
    rows, length = shape(batches, FLAGS.devices)
    print(
        f"a step: {PAIRS} pairs, {statistics.mean(tokens):,.0f} tokens; slots here "
        f"{rows} x {length} = {rows * length:,}, in TRL {statistics.mean(padded):,.0f}"
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
        return train_step.work(jax_step(kind == "cached"))
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

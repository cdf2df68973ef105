"""Preference pairs of mixed lengths, and who learns from them: this library and TRL."""

import dataclasses
import importlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import torch_model
from nemojax.data.batching import packing
from nemojax.data.batching.example_batches import ExampleBatches
from nemojax.models import forward
from nemojax.models.config import ModelConfig
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from nemojax.training import objectives, placement, programs, step
from nemojax.training.objectives import PreferenceBatch, PreferenceConfig
from nemojax.training.optimizer import ADAMW, make_optimizer
from nemojax.training.programs import ByLayout

# The policy stays near its reference, where losses and gradients are of usual size.
RATE, BETA = 1e-6, 0.1
END = 0  # the token that ends each answer

# A prompt's tokens, the chosen answer's and the rejected one's.
Pair = tuple[list[int], list[int], list[int]]


@dataclasses.dataclass(frozen=True)
class PairsJob:
    """Which pairs are learned from, by which model.

    Attributes:
      config: the model.
      pairs: pairs of a step.
      batches: steps until the same pairs come again.
      prompt, answer: median, least and most tokens.
      even: whether all have the median's tokens.
      devices: that share a step's rows, in jax.
      multiple: divides the tokens of a row.
      remat: what is computed again, see `LayoutOptions`.
    """

    config: ModelConfig
    pairs: int = 8
    batches: int = 12
    prompt: tuple[int, int, int] = (48, 16, 128)
    answer: tuple[int, int, int] = (80, 8, 384)
    even: bool = False
    devices: int = 1
    multiple: int = 32
    remat: str = "none"


def pairs(job: PairsJob) -> list[list[Pair]]:
    """Those of each step."""
    rng = np.random.default_rng(0)

    def size(median: int, least: int, most: int) -> int:
        if job.even:
            return median
        return int(np.clip(rng.lognormal(np.log(median), 0.6), least, most))

    def words(count: int) -> list[int]:
        return rng.integers(1, job.config.vocab_size, count).tolist()

    def pair() -> Pair:
        answers = [[*words(size(*job.answer) - 1), END] for _ in range(2)]
        return words(size(*job.prompt)), answers[0], answers[1]

    return [[pair() for _ in range(job.pairs)] for _ in range(job.batches)]


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
        sequences(batch),
        batch=len(batch),
        length=length,
        seed=None,
        row_multiple=rows,
    )
    return found.parts(0)[0] if found.rows == rows else None


def shape(job: PairsJob, batches: Sequence[Sequence[Pair]]) -> tuple[int, int]:
    """Rows and their length: the fewest slots that hold any batch.

    Devices share the rows evenly, and no row is twice as long as the longest sequence,
    since attention takes the square of it.
    """
    longest = max(size for batch in batches for size in lengths(batch))
    whole = -(-longest // job.multiple) * job.multiple
    shapes = itertools.product(
        range(job.devices, 2 * job.pairs + job.devices, job.devices),
        range(whole, 2 * whole, job.multiple),
    )
    return next(
        rows_and_length
        for rows_and_length in sorted(shapes, key=lambda pair: pair[0] * pair[1])
        if all(packed(batch, *rows_and_length) for batch in batches)
    )


def jax_step(job: PairsJob, cached: bool) -> Callable[[int], None]:
    """(number) -> takes so many steps."""
    batches, config = pairs(job), job.config
    rows, length = shape(job, batches)
    layout = Layout(meshes.make_mesh(data=job.devices), remat=job.remat)
    adam = make_optimizer(ADAMW)
    loss = (("loss", PreferenceConfig("dpo", beta=BETA)),)
    objective = ByLayout(objectives.preference_objective, config, loss)
    train = programs.train_step(objective, ADAMW, layout)
    params = jax.jit(forward.init, static_argnums=0)(config, jax.random.key(0))
    state = step.init_state(params, adam)
    shardings = placement.state_shardings(state, layout)
    state = [placement.put(state, shardings)]
    params = placement.put(params, shardings.params)

    @jax.jit
    def reference(params, text, ids):
        return objectives.sequence_log_probs(
            config, params, text, ids, 2 * job.pairs, layout
        )

    def without_reference(k: int) -> PreferenceBatch:
        found = packed(batches[k % job.batches], rows, length)
        assert found is not None
        nothing = np.zeros(2 * job.pairs, np.float32)
        valid = np.ones(job.pairs, np.float32)
        batch = PreferenceBatch(
            found.batch, found.sequence_ids, nothing, nothing, 0 * valid, valid
        )
        return placement.place_batch(batch, layout)

    def compute(batch: PreferenceBatch) -> jax.Array:
        return reference(params, batch.text, batch.sequence_ids)

    stored = [
        np.asarray(compute(without_reference(k))) for k in range(job.batches) if cached
    ]
    taken = itertools.count()

    def run(number: int) -> None:
        for k in itertools.islice(taken, number):
            batch = without_reference(k)
            values = stored[k % job.batches] if cached else compute(batch)
            batch = batch._replace(reference=values)
            state[0], _ = train(state[0], batch, np.float32(RATE))
        jax.block_until_ready(state[0].step)

    return run


def tokenizer(job: PairsJob) -> Any:
    """Of transformers: a word is a token, the decimals of its number."""
    tokenizers = importlib.import_module("tokenizers")
    count = job.config.vocab_size
    words = {str(k): k for k in range(count) if k != END} | {"<end>": END}
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


def trl_trainer(
    job: PairsJob, make_model: Callable[[], Any], cached: bool, folder: str
) -> Any:
    """TRL's trainer, which does not end by itself; in bfloat16 on a GPU.

    Args:
      job: model and pairs.
      make_model: makes the policy, and the reference where it is not cached.
      cached: whether log-probs of the reference are computed before.
      folder: TRL's own.
    """
    datasets = importlib.import_module("datasets")
    trl = importlib.import_module("trl")
    datasets.disable_progress_bars()
    gpu = torch_model.device() == "cuda"
    flat = [pair for batch in pairs(job) for pair in batch]
    settings = trl.DPOConfig(
        output_dir=folder,
        max_steps=10**6,
        per_device_train_batch_size=job.pairs,
        precompute_ref_log_probs=cached,
        beta=BETA,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        adam_beta1=ADAMW.beta1,
        adam_beta2=ADAMW.beta2,
        adam_epsilon=ADAMW.epsilon,
        weight_decay=ADAMW.weight_decay,
        max_grad_norm=ADAMW.clip_norm,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        bf16=gpu,
        use_cpu=not gpu,
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
    )
    trainer = trl.DPOTrainer(
        make_model(),
        ref_model=None if cached else make_model(),
        args=settings,
        train_dataset=datasets.Dataset.from_list([as_text(pair) for pair in flat]),
        processing_class=tokenizer(job),
    )
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    for row, pair in zip(trainer.train_dataset, flat, strict=True):
        assert tuple(row[name] for name in names) == pair
    return trainer

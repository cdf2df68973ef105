"""Generation here and in transformers with torch, side by side on the CPU.

    python -m benchmarks.generation --torch_python=/path/to/python

The model of `benchmarks.train_step`, greedy, float32. Two jobs: 8 prompts of 64 tokens
with answers of 128, and 64 requests of mixed lengths, which transformers gets in padded
batches of 8 in the order in which they come, each as long as its longest answer. Also
what share of a bare loop of compiled decode calls the engine reaches. Each side is a
process of its own; they take turns. `--torch_python` is an interpreter with torch and
transformers.

What is compiled is chosen for the job. The even one has 8 rows, as long as its texts,
which are looked at in one piece; continuous batching answers the mixed ones 32 at a
time.
"""

import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from benchmarks import bare_decoding, torch_model, train_step
from nemojax.cli import host
from nemojax.inference.engine.config import EngineConfig
from nemojax.inference.engine.engine import Engine
from nemojax.inference.engine.paged import Programs
from nemojax.inference.engine.sampling import Sampling
from nemojax.parallel import mesh as meshes

FLAGS = flags.FLAGS
flags.DEFINE_enum("job", None, ["jax", "torch"], "what a process measures")

# A prompt's tokens and how many answer it.
Request = tuple[list[int], int]
CONFIGS = {
    "even": EngineConfig(
        slots=8,
        blocks=49,
        block_size=32,
        max_length=192,
        prefill_slots=8,
        chunk=64,
        tile=192,
        steps=16,
    ),
    "mixed": EngineConfig(
        slots=32,
        blocks=481,
        block_size=32,
        max_length=480,
        prefill_slots=8,
        chunk=64,
        tile=480,
        steps=8,
    ),
}


def requests(kind: str) -> list[Request]:
    """Of a job."""
    rng = np.random.default_rng(0)
    if kind == "even":
        sizes = [(64, 128)] * 8
    else:
        sizes = [
            (int(rng.integers(8, 200)), int(np.clip(rng.lognormal(4, 1), 4, 256)))
            for _ in range(64)
        ]
    vocabulary = train_step.CONFIG.vocab_size
    return [(rng.integers(0, vocabulary, size).tolist(), new) for size, new in sizes]


def jax_jobs():
    """(kind) -> answers it."""
    params = train_step.initial(train_step.CONFIG)
    mesh = meshes.make_mesh()
    engines = {
        kind: Engine(train_step.CONFIG, params, mesh, config)
        for kind, config in CONFIGS.items()
    }

    def run(kind: str) -> None:
        prompts, sizes = zip(*requests(kind), strict=True)
        engines[kind].generate(
            prompts, [Sampling(temperature=0, max_tokens=new) for new in sizes]
        )

    programs = Programs(train_step.CONFIG, params, mesh, CONFIGS["even"])
    bare = bare_decoding.loop(programs, CONFIGS["even"], 64, 128)
    return {"even": lambda: run("even"), "mixed": lambda: run("mixed"), "bare": bare}


def torch_jobs():
    """(kind) -> answers it."""
    torch = torch_model.torch()
    model = torch_model.build(
        train_step.CONFIG, train_step.initial(train_step.CONFIG)
    ).eval()

    def batch(some: Sequence[Request]) -> None:
        width = max(len(prompt) for prompt, _ in some)
        tokens = torch.zeros((len(some), width), dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, (prompt, _) in enumerate(some):
            tokens[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        with torch.no_grad():
            model.generate(
                input_ids=tokens,
                attention_mask=mask,
                max_new_tokens=max(new for _, new in some),
                do_sample=False,
                use_cache=True,
                eos_token_id=None,
                pad_token_id=0,
            )

    def run(kind: str) -> None:
        asked = requests(kind)
        for start in range(0, len(asked), 8):
            batch(asked[start : start + 8])

    return {"even": lambda: run("even"), "mixed": lambda: run("mixed")}


def work(jobs) -> None:
    """The job that is named, when it is; prints the seconds."""
    for job in jobs.values():
        job()
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        jobs[line.strip()]()
        print(time.perf_counter() - start, flush=True)


def main(argv: list[str]) -> None:
    del argv
    if FLAGS.job == "torch":
        return work(torch_jobs())
    if FLAGS.job == "jax":
        host.cpu_devices(1)
        host.keep_memory()
        return work(jax_jobs())
    module = "benchmarks.generation"
    ours = train_step.Worker(sys.executable, module, "--job=jax")
    theirs = train_step.Worker(FLAGS.torch_python, module, "--job=torch")
    for kind in ("even", "mixed"):
        count = sum(new for _, new in requests(kind))
        turns = [(ours.turn(kind), theirs.turn(kind)) for _ in range(FLAGS.turns)]
        ratios = [b / a for a, b in turns]
        print(
            f"{kind:6} nemojax {count / statistics.median(a for a, _ in turns):,.0f}, "
            f"torch {count / statistics.median(b for _, b in turns):,.0f} tokens/s; "
            f"ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
    shares = [ours.turn("bare") / ours.turn("even") for _ in range(FLAGS.turns)]
    print(f"share of the bare decode loop {statistics.median(shares):.0%}")
    for worker in (ours, theirs):
        worker.process.terminate()
    return None


if __name__ == "__main__":
    app.run(main)

"""A train step here and in transformers with torch, side by side on the CPU.

    python -m benchmarks.train_step --torch_python=/path/to/python

The same model (8 layers of width 256, 8 heads and 2 of keys, vocabulary 8,192), batch
(8 x 256 tokens), float32 and AdamW with clipping. Each is a process of its own; they
take turns, so that what else the machine does meets both, and wait while the other
runs. Prints the medians of tokens per second and the ratio of each turn's.
`--torch_python` is an interpreter with torch and transformers.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks import torch_model
from nemojax.cli import host
from nemojax.data.batching import batches
from nemojax.models import forward
from nemojax.models.config import ModelConfig
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from nemojax.training import objectives, optimizer, placement, step

FLAGS = flags.FLAGS
flags.DEFINE_string("torch_python", sys.executable, "has torch and transformers")
flags.DEFINE_integer("turns", 8, "of each")
flags.DEFINE_integer("steps", 6, "of a turn")
flags.DEFINE_integer("devices", 2, "that the CPU is split into for jax")
flags.DEFINE_enum("worker", None, ["jax", "torch"], "what a process measures")

ROWS, LENGTH = 8, 256
CONFIG = ModelConfig(
    vocab_size=8192,
    num_layers=8,
    d_model=256,
    num_heads=8,
    num_kv_heads=2,
    head_dim=32,
    d_ff=1024,
    compute_dtype="float32",
)
ADAM = optimizer.OptimizerConfig(1e-4)


def tokens(k: int) -> np.ndarray:
    """int32 [ROWS, LENGTH] of step k."""
    return np.random.default_rng(k).integers(
        0, CONFIG.vocab_size, (ROWS, LENGTH), np.int32
    )


def initial(config: ModelConfig) -> Any:
    """Random parameters."""
    return jax.jit(forward.init, static_argnums=0)(config, jax.random.key(0))


def jax_step(config: ModelConfig) -> Callable[[int], None]:
    """(number) -> takes so many steps."""
    layout = Layout(meshes.make_mesh(data=FLAGS.devices))
    adam = optimizer.make_optimizer(ADAM)
    objective = objectives.language_model_objective(config, layout)
    train_step = step.make_train_step(objective, adam)
    state = step.init_state(initial(config), adam)
    state = [placement.put(state, placement.state_shardings(state, layout))]

    def run(number: int) -> None:
        for k in range(number):
            batch = placement.place_batch(batches.from_rows(tokens(k)), layout)
            state[0], _ = train_step(state[0], batch, np.float32(ADAM.peak_lr))
        jax.block_until_ready(state[0].step)

    return run


def torch_step(config: ModelConfig) -> Callable[[int], None]:
    """(number) -> takes so many steps."""
    torch = torch_model.torch()
    model = torch_model.build(config, initial(config))
    adam = torch.optim.AdamW(
        model.parameters(),
        lr=ADAM.peak_lr,
        betas=(ADAM.beta1, ADAM.beta2),
        eps=ADAM.epsilon,
        weight_decay=ADAM.weight_decay,
    )

    def run(number: int) -> None:
        for k in range(number):
            ids = torch.from_numpy(tokens(k)).long()
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), ADAM.clip_norm)
            adam.step()
            adam.zero_grad()

    return run


def work(run: Callable[[int], None]) -> None:
    """Steps when it is told to; prints the seconds."""
    run(2)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run(FLAGS.steps)
        print(time.perf_counter() - start, flush=True)


class Worker:
    """A process that measures when it is asked."""

    def __init__(self, python: str, module: str, *arguments: str):
        self.process = subprocess.Popen(
            [python, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def turn(self, what: str = "go") -> float:
        """Seconds of a turn."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return float(self._line())


def main(argv: list[str]) -> None:
    del argv
    if FLAGS.worker == "torch":
        return work(torch_step(CONFIG))
    if FLAGS.worker == "jax":
        host.cpu_devices(FLAGS.devices)
        host.keep_memory()
        return work(jax_step(CONFIG))
    module, count = "benchmarks.train_step", ROWS * LENGTH * FLAGS.steps
    sizes = f"--steps={FLAGS.steps}", f"--devices={FLAGS.devices}"
    ours = Worker(sys.executable, module, "--worker=jax", *sizes)
    theirs = Worker(FLAGS.torch_python, module, "--worker=torch", *sizes)
    speeds = [(count / ours.turn(), count / theirs.turn()) for _ in range(FLAGS.turns)]
    ratios = [a / b for a, b in speeds]
    print(f"nemojax {statistics.median(a for a, _ in speeds):,.0f} tokens/s")
    print(f"torch   {statistics.median(b for _, b in speeds):,.0f} tokens/s")
    print(
        f"ratio   {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    for worker in (ours, theirs):
        worker.process.terminate()
    return None


if __name__ == "__main__":
    app.run(main)

"""A served checkpoint: its folder, and the process that serves it."""

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import jax
import numpy as np

from nemojax.data.text import tokenizer as tokenizers
from nemojax.interop import model_folder
from nemojax.models import forward
from nemojax.models.config import ModelConfig

TEXTS = ["the teacher teaches three texts, ==, 1 + 1 = 2\nGrüße, 你好\n"] * 20


def write_model(path: Path, *, num_attributes: int = 0, plain: bool = False) -> Path:
    """A tiny random model with sharp distributions and more rows than its tokenizer.

    A plain one never finds likeliest what writes no whole characters: libraries make
    different texts of such tokens.
    """
    tokenizer = tokenizers.train(TEXTS, vocab_size=330)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size + 6,
        num_layers=2,
        d_model=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        d_ff=64,
        init_std=0.3,
        compute_dtype="float32",
    )
    init = functools.partial(forward.init, config, num_attributes=num_attributes)
    params = jax.jit(init)(jax.random.key(1))
    if num_attributes:
        kernel = jax.random.normal(jax.random.key(2), (32, num_attributes))
        params["reward_head"] = {"kernel": kernel, "bias": kernel[0]}
    if plain:
        names = [tokenizer.piece(token) for token in range(tokenizer.vocab_size)]
        kept = [not name.startswith("<") for name in names] + [False] * 6
        params["lm_head"]["kernel"] *= np.array(kept)[:, None]
    files = {"tokenizer.model": tokenizer.model_bytes}
    model_folder.save(path, config, params, files=files)
    return path


@contextlib.contextmanager
def serving(checkpoint: Path, *flags: str, **environment: str):
    """(address, process) of a server that runs until the end of the block."""
    process = subprocess.Popen(
        [
            sys.executable,
            *("-m", "experiments.serve", f"--model={checkpoint}", "--port=0"),
            *("--length=128", "--slots=4", *flags),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    # Nobody reads on, and a full pipe would stop it.
    errors: list[str] = []
    assert process.stdout and process.stderr
    threading.Thread(target=lambda: errors.extend(process.stderr), daemon=True).start()
    try:
        line = process.stdout.readline()
        found = re.search(r"http://\S+:\d+", line)
        assert found, (line, errors)
        process.errors = errors
        yield found[0], process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def metric(address, name):
    """The value of a metric."""
    for line in httpx.get(f"{address}/metrics").text.splitlines():
        if line.startswith(f"nemojax_{name} "):
            return float(line.split()[-1])
    raise KeyError(name)


def idle(address):
    """Waits until nothing is answered; all blocks are free then."""
    for _ in range(2000):
        if not metric(address, "running") and not metric(address, "waiting"):
            assert metric(address, "free_blocks") == metric(address, "blocks")
            return
        time.sleep(0.05)
    raise AssertionError("answers go on")

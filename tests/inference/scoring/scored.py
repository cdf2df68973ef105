"""A model folder and data files to score."""

import functools
import json
import random

import jax
import numpy as np

from nemojax.data.text import tokenizer as tokenizers
from nemojax.data.text.nemotron_template import NEMOTRON
from nemojax.interop import loading, model_folder, tokenizer_files
from nemojax.models import forward
from nemojax.models.config import ModelConfig
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout

WORDS = ("red", "blue", "green", "tin", "gold", "lead")


@functools.cache
def reward_model():
    """A tiny reward model of a language of repeated words, as it is after loading."""
    texts = [f"User\nAssistant\nSystem\n{word} twice {word} {word}" for word in WORDS]
    tokenizer = tokenizers.train(texts * 20, vocab_size=60, byte_fallback=False)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size + 4,
        num_layers=1,
        d_model=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        d_ff=48,
        init_std=0.05,
        compute_dtype="float32",
    )
    init = functools.partial(forward.init, config, num_attributes=5)
    params = jax.jit(init)(jax.random.key(0))
    kernel = np.random.default_rng(0).normal(size=(32, 5)).astype(np.float32)
    params = params | {"reward_head": params["reward_head"] | {"kernel": kernel}}
    layout = Layout(meshes.make_mesh(data=2))
    return loading.LoadedModel(
        "toy", config, params, layout, tokenizer, NEMOTRON, (), (), {}
    )


def write_model(folder, config, params, tokenizer):
    """A model folder; returns its path."""
    files = {tokenizer_files.MODEL: tokenizer.model_bytes}
    model_folder.save(folder, config, params, files=files)
    return folder


def conversations(count, seed=0, most=4):
    """Rows of a prompt and a response of up to `most` words each."""
    rng = random.Random(seed)

    def text():
        return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))

    return [{"prompt": text(), "response": text()} for _ in range(count)]


def write_rows(path, rows):
    """A .jsonl file; strings are lines as they are. Returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def read_parts(folder, suffix=".jsonl"):
    """The objects in all parts, in order."""
    return [
        json.loads(line)
        for path in sorted(folder.glob(f"part-?????{suffix}"))
        for line in path.read_text().splitlines()
    ]


def contents(folder):
    """Bytes of all files by name."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name != ".lock"
    }

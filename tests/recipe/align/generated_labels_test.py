"""A reward model of 20,000 generated rows whose attributes are known functions.

In the layout of HelpSteer2: labels are whole numbers from 0 to 4, three annotators'
noise on each, and some are missing.
"""

import dataclasses
import functools
import random

import jax
import pytest

from nemojax.data.batching import examples
from nemojax.data.records import ATTRIBUTES
from nemojax.data.text import tokenizer as tokenizers
from nemojax.interop import loading
from nemojax.models import forward, presets
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from nemojax.recipe.align import stage
from nemojax.recipe.align.settings import REGRESSION, StageSettings
from nemojax.training.learning_rate import LearningRate
from nemojax.training.optimizer import OptimizerConfig
from nemojax.training.stage import Options
from tests.inference.scoring.scored import write_model
from tests.recipe.align import toy

# What a word does to the attributes that are not verbosity: helps, is wrong, breaks the
# thread, or is a long word; some do two things.
WORDS = {
    "answer": "h", "example": "hl", "reason": "h", "measure": "hl", "mistake": "wl",
    "wrong": "w", "never": "w", "however": "bl", "anyway": "b", "stray": "b",
    "garden": "", "kettle": "", "lantern": "l", "harbour": "l", "cloud": "", "drum": "",
}  # fmt: skip
NOISE = 0.5


def attributes(said):
    """Of a response, each from 0 to 4."""
    does = "".join(WORDS[word] for word in said)
    return (
        1.5 * does.count("h"),
        4 - 2 * does.count("w"),
        4 - 2 * does.count("b"),
        1.5 * does.count("l"),
        len(said) / 2,
    )


def rows(count, seed):
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        said = rng.choices(list(WORDS), k=rng.randint(1, 8))
        labels = {}
        for name, value in zip(ATTRIBUTES, attributes(said), strict=True):
            value = min(4.0, max(0.0, value))
            votes = [value + rng.gauss(0, NOISE * 3**0.5) for _ in range(3)]
            label = round(min(4.0, max(0.0, sum(votes) / 3)))
            labels[name] = -100 if rng.random() < 0.05 else label
        prompt = f"Say {rng.choice(list(WORDS))}."
        found.append({"prompt": prompt, "response": " ".join(said)} | labels)
    return [row for row in found if any(row[name] != -100 for name in ATTRIBUTES)]


@pytest.mark.slow
def test_every_attribute_is_learned(tmp_path):
    texts = [f"{row['prompt']}\n{row['response']}" for row in rows(2000, 9)]
    texts += ["User\nAssistant\nSystem\n"] * 50
    tokenizer = tokenizers.train(texts, vocab_size=200, byte_fallback=False)
    config = dataclasses.replace(
        presets.small(256), d_model=96, num_layers=3, num_heads=4, num_kv_heads=2,
        head_dim=24, d_ff=384, compute_dtype="float32",
    )  # fmt: skip
    params = jax.jit(functools.partial(forward.init, config))(jax.random.key(0))
    folder = write_model(tmp_path / "m", config, params, tokenizer)
    mesh = meshes.make_mesh(data=2)
    model = loading.load(folder, Layout(mesh))
    read = functools.partial(
        examples.read,
        encode=examples.labelled(model.tokenizer, model.template),
        length=96,
        values=5,
    )
    train = read([toy.write(tmp_path / "train.jsonl", rows(20_000, 0))])
    held = read([toy.write(tmp_path / "held.jsonl", rows(1000, 1))])
    assert train.counts["examples"] > 19_900
    settings = StageSettings(
        REGRESSION,
        LearningRate(2e-3, warmup=20),
        OptimizerConfig(weight_decay=0.01),
        batch=128,
        epochs=2,
        length=96,
        validate_every=100,
        keep_best=True,
    )
    options = Options(dataclasses.replace(toy.WHOLE, data=2))
    trained = stage.train("labels", settings, model, train, held, tmp_path, options)
    best = min(
        (row for row in trained.history if "validation_loss" in row),
        key=lambda row: row["validation_loss"],
    )
    found = {name: best[f"validation_pearson_{name}"] for name in ATTRIBUTES}
    print({name: round(value, 3) for name, value in found.items()})
    assert min(found.values()) >= 0.8

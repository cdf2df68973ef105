"""Files of a toy language for each kind of stage, and settings that suit them."""

import dataclasses
import json
import random
from typing import Any

from nemojax.data.batching import examples
from nemojax.parallel import layout
from nemojax.parallel.layout import LayoutSpec
from nemojax.recipe.align.settings import (
    BRADLEY_TERRY,
    PREFERENCE,
    REGRESSION,
    SFT,
    StageSettings,
)
from nemojax.training.learning_rate import LearningRate
from nemojax.training.objectives import PreferenceConfig
from nemojax.training.optimizer import OptimizerConfig
from tests.recipe.conftest import WORDS

RATE = LearningRate(3e-3, 1.0, warmup=2)
ADAM = OptimizerConfig()
DPO = PreferenceConfig("dpo", beta=0.5, sft_weight=0.01)
RPO = PreferenceConfig("rpo", beta=0.5, sft_weight=0.01)
LENGTH = 64
WHOLE = LayoutSpec(**layout.WHOLE)


def settings(objective, **changes):
    """Of a stage of some twenty steps."""
    values: dict[str, Any] = {"batch": 6, "epochs": 2, "length": LENGTH, "seed": 3}
    if objective == PREFERENCE:
        values["preference"] = DPO
    adam = ADAM
    if objective == BRADLEY_TERRY:
        values["attributes"] = 1
        # Pairs say nothing of what moves both rewards alike: of many parameters the
        # gradient is 0 but for rounding, and Adam would make steps of that.
        adam = dataclasses.replace(ADAM, epsilon=1e-5)
    return StageSettings(objective, RATE, adam, **(values | changes))


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _texts(rng, most):
    return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))


def demonstrations(count, seed=0):
    """The answer says the words of the prompt again."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        text = _texts(rng, 4)
        rows.append({"prompt": text, "response": text})
    return rows


def pairs(count, seed=1):
    """The chosen response says the words again, the rejected other ones."""
    rng = random.Random(seed)
    rows = []
    while len(rows) < count:
        prompt, other = _texts(rng, 3), _texts(rng, 5)
        if prompt != other:
            row = {"prompt": prompt, "chosen": prompt, "rejected": other}
            gap = rng.uniform(0, 2)
            rows.append(row | {"chosen_reward": gap, "rejected_reward": 0.0})
    return rows


def labels(count, seed=2):
    """Labels that count words; those of coherence are missing."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        response = _texts(rng, 6)
        rows.append(
            {
                "prompt": _texts(rng, 3),
                "response": response,
                "helpfulness": min(4, response.count("red") * 2),
                "correctness": min(4, len(response.split()) // 2),
                "coherence": -100,
                "complexity": rng.randint(0, 4),
                "verbosity": min(4, len(response.split())),
            }
        )
    return rows


# By objective: rows of a file, what encodes them, and their numbers.
KINDS = {
    SFT: (demonstrations, examples.demonstrations, 0),
    REGRESSION: (labels, examples.labelled, 5),
    BRADLEY_TERRY: (pairs, examples.compared, 1),
    PREFERENCE: (pairs, examples.preferences, 3),
}


def read(path, objective, model, count=60, **options):
    """Examples of a new file of an objective."""
    rows, encode, values = KINDS[objective]
    return examples.read(
        [write(path, rows(count))],
        encode(model.tokenizer, model.template, **options),
        length=LENGTH,
        values=values,
    )

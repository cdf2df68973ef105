"""The pretraining of a work folder once more, in transformers with torch.

    python -m benchmarks.pretrain_torch --run=runs/nano --data=tokens --minutes=15

The same model from the same initial parameters, on the same samples in the same order,
with the same AdamW, and measured on the same held-out text: what differs is who takes
the steps, and how many there are in the time. The learning rate goes through its whole
schedule in the steps that the time allows, which a few steps before tell.
"""

import json
import math
import pathlib
import time
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import torch_model
from nemojax.data.pretraining import blends, samples, token_files
from nemojax.data.pretraining.token_corpus import TokenCorpus
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout
from nemojax.recipe.pretrain import pretraining
from nemojax.recipe.pretrain.pretraining import PretrainSettings
from nemojax.training.optimizer import OptimizerConfig
from nemojax.training.schedule import Schedule

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "work folder of experiments.pretrain", required=True)
flags.DEFINE_string("data", None, "folder of tokenized text", required=True)
flags.DEFINE_float("minutes", 15.0, "to train")
flags.DEFINE_integer("warm", 8, "steps that tell the time of one")


def settings(configuration: dict[str, Any]) -> PretrainSettings:
    """Those of a work folder."""
    kinds = {"config": ModelConfig, "schedule": Schedule, "optimizer": OptimizerConfig}
    return PretrainSettings(
        **{
            name: kinds[name](**value) if name in kinds else value
            for name, value in configuration.items()
        }
    )


def bits_per_byte(
    model: Any, corpus: TokenCorpus, wanted: PretrainSettings
) -> dict[str, float]:
    """Of the held-out text, as `recipe.pretraining.bits_per_byte` measures it."""
    torch = torch_model.torch()
    split, rows = token_files.VALIDATION, 8
    found = samples.validation_batches(
        corpus, split, wanted.length, rows, max(1, wanted.validation_rows // rows)
    )
    values = {}
    for name, batches in found.items():
        loss = weight = 0.0
        for batch in batches:
            ids = torch.from_numpy(batch.tokens).long()
            with torch.no_grad():
                log_probs = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
            picked = log_probs.gather(-1, ids[:, 1:, None])[..., 0].numpy()
            mask = batch.loss_mask[:, 1:]
            loss -= float((picked * mask).sum(dtype=np.float64))
            weight += float(mask.sum())
        bits = loss / weight / math.log(2)
        values[name] = bits / corpus.bytes_per_token(name, split)
    return values


def main(argv: list[str]) -> None:
    del argv
    torch = torch_model.torch()
    stored = pathlib.Path(FLAGS.run) / "configuration.json"
    wanted = settings(json.loads(stored.read_text()))
    corpus = TokenCorpus(FLAGS.data)
    source = pretraining.open_samples(wanted, corpus, [blends.NEMOTRON])
    schedule, constants = wanted.schedule, wanted.optimizer

    def trained(steps: int) -> tuple[Any, float]:
        short = schedule.of_steps(steps)
        model = torch_model.build(
            wanted.config, pretraining.fresh(wanted.config, wanted.seed, Layout())
        )
        # Norms and biases are not decayed, here as there.
        groups = [
            {
                "params": [p for p in model.parameters() if (p.dim() > 1) == decayed],
                "weight_decay": constants.weight_decay if decayed else 0.0,
            }
            for decayed in (True, False)
        ]
        adam = torch.optim.AdamW(
            groups,
            lr=schedule.learning_rate.peak,
            betas=(constants.beta1, constants.beta2),
            eps=constants.epsilon,
        )
        start = time.monotonic()
        for k in range(steps):
            batch = source.batch(*short.at(k))
            ids = torch.from_numpy(batch.tokens).long()
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), constants.clip_norm)
            for group in adam.param_groups:
                group["lr"] = short.rate_at(k)
            adam.step()
            adam.zero_grad()
            if k % max(1, steps // 20) == 0:
                left = (time.monotonic() - start) / (k + 1) * (steps - k - 1)
                print(f"{k + 1}/{steps} loss {loss:.4f} {left:.0f}s left", flush=True)
        return model, time.monotonic() - start

    _, warm = trained(FLAGS.warm)
    steps = int(60 * FLAGS.minutes / warm * FLAGS.warm)
    model, seconds = trained(steps)
    result = {
        "steps": steps,
        "seconds": seconds,
        "tokens_per_second": steps * schedule.batch * wanted.length / seconds,
        "bits_per_byte": bits_per_byte(model, corpus, wanted),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)

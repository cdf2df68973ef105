"""Every stage of alignment on real data, and one table of what each did.

    python -m benchmarks.real_alignment --data=FOLDER --model=BASE --workdir=runs/real

FOLDER has the layout of data/pretraining/corpus.py. Two reward models
are trained on the pairs, Bradley-Terry and regression (4 for the chosen response, 0 for
the rejected one), and the stages code SFT, general SFT, DPO and three rounds of RPO
with the rewards of the first, each by the command that users type. Rows are held out by
the hash of their first turn, so no stage trains on what any is measured on.

Prints the pairwise accuracy of the reward models and of preferring the longer response,
with 95 % intervals, and for each stage: the held-out loss of code and of general rows,
and of held-out pairs the share in the right order, implicit rewards and log-probs
against the model before DPO. About an hour on two cores for a model of 10M parameters.
"""

import collections
import functools
import json
import pathlib
import subprocess
import sys

import numpy as np
from absl import flags

from nemojax.cli import command
from nemojax.data.pretraining import corpus
from nemojax.data.records import MISSING, AttributeLabels
from nemojax.data.rows import formats, writers
from nemojax.interop import loading
from nemojax.io.quarantine import Quarantine
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from nemojax.recipe.align import examples, measures, reference, targets
from nemojax.recipe.align.rewards import read as read_scores
from nemojax.recipe.align.settings import PREFERENCE, SFT, Settings
from nemojax.recipe.folder import material
from nemojax.reporting import statistics
from nemojax.training.objectives import PreferenceConfig
from nemojax.training.optimizer import OptimizerConfig

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "folder", required=True)
flags.DEFINE_string("model", None, "model folder to begin with", required=True)
flags.DEFINE_string("workdir", None, "folder to work in", required=True)
flags.DEFINE_integer("length", 256, "tokens; longer rows are left out")
flags.DEFINE_integer("most", 4000, "rows of a set to train on")
flags.DEFINE_float("rate", 1e-3, "learning rate of SFT and reward models")
flags.DEFINE_float("preference_rate", 2e-4, "of DPO and RPO")
flags.DEFINE_float("beta", 0.1, "of DPO and RPO")
HELD_OUT = {"code": 0.1, "general": 0.1, "pairs": 0.25}


def split(folder: pathlib.Path) -> None:
    """Writes what is trained on and what is measured on, as files."""
    found = corpus.find_recipe_data(FLAGS.data)
    bad = Quarantine()
    sets = {
        "code": formats.read_conversations(found.code_sft, bad).records,
        "general": formats.read_conversations(found.general_sft, bad).records,
        "pairs": formats.read_preferences(found.preferences, bad).records,
    }
    for name, records in sets.items():
        prompts = [getattr(record, "prompt", record) for record in records]
        held = [material.is_held_out(one, HELD_OUT[name]) for one in prompts]
        for side, wanted in (("train", False), ("held", True)):
            kept = [r for r, h in zip(records, held, strict=True) if h == wanted]
            kept = material.spread(kept, FLAGS.most if side == "train" else 400)
            target = "trl" if name == "pairs" else "messages"
            _write(folder / f"{name}.{side}.jsonl", kept, target)
            if name == "pairs":
                labels = [label for pair in kept for label in _labels(pair)]
                _write(folder / f"labels.{side}.jsonl", labels, "helpsteer")


def _labels(pair) -> list[AttributeLabels]:
    rest = (MISSING,) * 4
    return [
        AttributeLabels(pair.prompt.with_response(text), (label, *rest))
        for text, label in ((pair.chosen, 4.0), (pair.rejected, 0.0))
    ]


def _write(path: pathlib.Path, records, target: str) -> None:
    rows, left_out = [], collections.Counter()
    for record in records:
        try:
            rows.append(json.dumps(writers.to_row(record, target)))
        except ValueError as error:  # a layout that cannot hold it
            left_out[str(error)] += 1
    path.write_text("\n".join(rows) + "\n")
    for reason, count in left_out.items():
        print(f"{path}: {count} rows left out: {reason}")


def script(name: str, workdir: pathlib.Path, model, data, *more: str) -> None:
    """Runs a command as users type it."""
    command = (
        sys.executable, "-m", f"experiments.{name}", f"--workdir={workdir}",
        f"--model={model}", f"--data={data}", f"--sequence_length={FLAGS.length}",
        "--max_bad_fraction=0.5", "--parallel.data=2", *more,
    )  # fmt: skip
    print(f"== {' '.join(command[2:])}", flush=True)
    subprocess.run(command, check=True)


def train(work: pathlib.Path, data: pathlib.Path) -> dict[str, pathlib.Path]:
    """Runs all stages; gives the models of each."""
    models = {"base": pathlib.Path(FLAGS.model)}
    rate = f"--optimizer.peak_lr={FLAGS.rate}"
    reward = (models["base"], data / "pairs.train.jsonl", rate, "--batch=32")
    pairwise = (*reward, "--objective=bradley_terry", "--epochs=1")
    script("train_reward", work / "pairwise", *pairwise)
    regression = (models["base"], data / "labels.train.jsonl", rate, "--batch=64")
    script("train_reward", work / "regression", *regression, "--epochs=1")
    for judge in ("pairwise", "regression"):
        for side in ("train", "held"):
            scores(work / judge / "reward/model", data / f"pairs.{side}.jsonl",
                   work / f"scores-{judge}-{side}")  # fmt: skip
    code, general = (data / f"{name}.train.jsonl" for name in ("code", "general"))
    script("sft", work / "code", models["base"], code, rate, "--batch=32")
    models["code SFT"] = work / "code/sft/model"
    script(
        "sft", work / "general", models["code SFT"], general, rate, "--batch=32",
        "--preset=general_sft", "--epochs=1", f"--replay={code}",
    )  # fmt: skip
    models["general SFT"] = work / "general/sft/model"
    how = (
        f"--optimizer.peak_lr={FLAGS.preference_rate}", "--batch=32",
        f"--preference.beta={FLAGS.beta}", "--preference.sft_weight=1e-3",
    )  # fmt: skip
    pairs = data / "pairs.train.jsonl"
    script("dpo", work / "dpo", models["general SFT"], pairs, *how)
    models["DPO"] = work / "dpo/dpo/model"
    rewards = f"--rewards={work / 'scores-pairwise-train'}"
    script("rpo", work / "rpo", models["DPO"], pairs, *how, rewards)
    for index in range(1, 4):
        models[f"RPO {index}"] = work / f"rpo/rpo_{index}/model"
    return models


def scores(model: pathlib.Path, data: pathlib.Path, out: pathlib.Path) -> None:
    """Rewards of pairs."""
    command = (
        sys.executable, "-m", "experiments.score", f"--model={model}",
        f"--data={data}", f"--out={out}", f"--max_length={FLAGS.length}",
        "--max_bad_fraction=0.9",
    )  # fmt: skip
    subprocess.run(command, check=True)


def measure(models: dict[str, pathlib.Path], data: pathlib.Path) -> list[list[str]]:
    """A row of the table for each model."""
    mesh = meshes.make_mesh(data=2)
    layout, adam = Layout(mesh), OptimizerConfig(1.0)
    preference = PreferenceConfig("dpo", beta=FLAGS.beta)
    how = {
        "code": Settings(SFT, adam, batch=16, length=FLAGS.length),
        "general": Settings(SFT, adam, batch=16, length=FLAGS.length),
        "pairs": Settings(
            PREFERENCE, adam, batch=16, length=FLAGS.length, preference=preference
        ),
    }
    base = loading.load(models["general SFT"], mesh)
    log_probs = reference.log_probs_of(base.config, layout, base.params)
    encode = {"pairs": examples.preferences, "code": examples.demonstrations}
    measured = {}
    for name, settings in how.items():
        make = encode.get(name, examples.demonstrations)
        found = examples.read(
            [data / f"{name}.held.jsonl"],
            make(base.tokenizer, base.template),
            length=FLAGS.length,
            max_bad_fraction=0.5,
            values=3 if name == "pairs" else 0,
        )
        packed = targets.pack(settings, layout, 0, found, held_out=True)
        batches = targets.StageBatches(settings, packed, found.values)
        fill = (
            functools.partial(reference.filled_in, log_probs)
            if name == "pairs"
            else _same
        )
        measured[name] = (
            len(found),
            measures.make_measure(base.config, settings, layout, batches, _same, fill),
        )
    rows = []
    for model, path in models.items():
        params = loading.load(path, mesh).params
        found = {name: of(params) for name, (_, of) in measured.items()}
        pairs = found["pairs"]
        count = measured["pairs"][0]
        right = round(pairs["validation_accuracy"] * count)
        low, high = statistics.wilson(right, count).interval or (0.0, 1.0)
        rows.append(
            [
                model,
                *(f"{found[name][measures.LOSS]:.3f}" for name in ("code", "general")),
                f"{right / count:.1%} ({low:.1%} to {high:.1%})",
                *(
                    f"{pairs[f'validation_{name}']:.3f}"
                    for name in (
                        "implicit_reward_chosen",
                        "implicit_reward_rejected",
                        "chosen_log_prob",
                        "rejected_log_prob",
                    )
                ),
            ]
        )
    return rows


def _same(value):
    return value


def judges(work: pathlib.Path, data: pathlib.Path) -> list[str]:
    """Pairwise accuracies, and that of the longer response."""
    lines = []
    weights = (1.0, 0.0, 0.0, 0.0, 0.0)  # only helpfulness was labelled
    scored = {
        judge: read_scores(work / f"scores-{judge}-held", weights)
        for judge in ("pairwise", "regression")
    }
    for judge, found in scored.items():
        values = np.array(list(found.values()))
        lines.append(_accuracy(judge, values[:, 0] > values[:, 1]))
    kept = {row for _, row in scored["pairwise"]}
    pairs = formats.read_preferences(data / "pairs.held.jsonl", Quarantine()).records
    longer = [
        len(pair.chosen) > len(pair.rejected)
        for row, pair in enumerate(pairs, 1)
        if row in kept
    ]
    return [*lines, _accuracy("the longer response", np.array(longer))]


def _accuracy(name: str, right: np.ndarray) -> str:
    found = statistics.wilson(int(right.sum()), len(right))
    low, high = found.interval or (0.0, 1.0)
    return f"| {name} | {found.value:.1%} | {low:.1%} to {high:.1%} | {len(right)} |"


def run() -> int:
    """Trains what is not trained yet, and measures."""
    work = pathlib.Path(FLAGS.workdir).absolute()
    data = work / "data"
    if not data.exists():
        partial = work / "data.partial"
        partial.mkdir(parents=True, exist_ok=True)
        split(partial)
        partial.rename(data)
    models = train(work, data)
    print("| reward model | pairs in order | 95 % | pairs |\n|---|---|---|---|")
    print("\n".join(judges(work, data)))
    head = (
        "model", "code loss", "general loss", "pairs in order (95 %)", "reward chosen",
        "reward rejected", "log p chosen", "log p rejected",
    )  # fmt: skip
    print(f"\n| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for row in measure(models, data):
        print(f"| {' | '.join(row)} |")
    return command.SUCCESS


if __name__ == "__main__":
    command.start(run)

"""The front door: what `import nemojax` offers, on tiny models."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

import nemojax
from nemojax.api import plan, train, use
from nemojax.data.batching import examples
from nemojax.data.records import Conversation
from nemojax.data.text.nemotron_template import NEMOTRON
from nemojax.interop import model_folder
from nemojax.parallel import fingerprint
from nemojax.planning.alignment import Alignment
from tests.recipe.align import toy

pytestmark = pytest.mark.usefixtures("quick_compile")
UNSCORED = {"prompt": "red", "chosen": "red", "rejected": "tin"}
SCRIPT = """\
import jax
import numpy as np
import nemojax

model = nemojax.load("models/mine")
pairs = [{"prompt": w, "chosen": w, "rejected": "tin"} for w in ("red", "blue")]

def loss(pairs):
    gap = pairs.chosen.log_ratios - pairs.rejected.log_ratios
    return -jax.nn.log_sigmoid(gap)

how = {"batch": 2, "epochs": 8, "length": 96, "learning_rate": 0.01}
tuned = nemojax.train.preference(model, pairs, loss=loss, out="own", **how)
assert np.mean(nemojax.generate(tuned, ["red"], max_tokens=4)[0].log_probs) < 0
"""


def metrics(folder):
    """The metrics of a stage, a row a step."""
    return list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))


def test_importing_imports_nothing_and_lists_all():
    code = (
        "import sys, nemojax; print(*dir(nemojax)); assert 'jax' not in sys.modules; "
        "print(nemojax.train.sft.__name__, nemojax.losses.dpo.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    offered = {"load", "generate", "score", "train", "convert", "plan", "losses"}
    assert offered <= set(done.stdout.split())
    assert nemojax.train is train and nemojax.plan is plan.plan
    assert nemojax.load is use.load
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        _ = nemojax.fit


def test_an_own_loss_in_twelve_lines(here, capsys):
    lines = [line for line in SCRIPT.splitlines() if line]
    assert len(lines) <= 12
    names: dict = {}
    exec(SCRIPT, names)
    first, tuned = names["model"], names["tuned"]
    row = metrics(here / "own/preference")[-1]
    assert row["loss"] < np.log(2)  # where the policy is its reference
    assert row["chosen_log_prob"] > row["rejected_log_prob"]
    # The given model is there as before; the other one is that of the folder.
    read = nemojax.load("models/mine")
    assert same(first.params, read.params) and not same(tuned.params, read.params)
    assert same(tuned.params, nemojax.load("own").params)
    # The same again reads what is there, another loss is refused.
    exec(SCRIPT, names)
    assert same(names["tuned"].params, tuned.params)
    with pytest.raises(nemojax.UserError, match="another out"):
        exec(SCRIPT.replace("log_sigmoid(", "log_sigmoid(2 * "), names)


def same(params, others):
    marks = [fingerprint.parameters_sha256(tree) for tree in (params, others)]
    return marks[0] == marks[1]


def test_files_dicts_and_records_are_the_same_examples(here):
    rows = toy.pairs(12)
    records = [
        nemojax.PreferencePair(
            Conversation.of(row["prompt"]), row["chosen"], row["rejected"]
        )
        for row in rows
    ]
    model = nemojax.load("models/mine")
    unscored = [
        {key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows
    ]
    encode = examples.preferences(model.tokenizer, NEMOTRON)
    how: dict = {"length": 96, "values": 3}
    read = examples.read(["pairs.jsonl"], encode, **how)
    scored, plain, bare = (
        examples.of_records(given, encode, name="rows", **how)
        for given in (rows, unscored, records)
    )
    assert read.fingerprint == scored.fingerprint
    assert plain.fingerprint == bare.fingerprint != read.fingerprint


def test_sft_on_a_mesh_learns_what_is_held_out(here):
    model, spec = nemojax.load("models/mine"), nemojax.LayoutSpec(data=2, tensor=2)
    tuned = nemojax.train.sft(
        model, toy.demonstrations(12), out="run", held_out="chats.jsonl", layout=spec,
        batch=6, epochs=2, length=96, learning_rate=1e-2,
    )  # fmt: skip
    rows = metrics(here / "run/sft")
    assert rows[-1]["validation_loss"] < rows[0]["loss"]
    assert tuned.mesh.size == 1 and not same(tuned.params, model.params)


@pytest.mark.slow
def test_adapters_are_trained_alone(here):
    model, lora = nemojax.load("models/mine"), nemojax.LoraConfig(rank=2)
    nemojax.train.sft(
        model, "chats.jsonl", out="run", lora=lora, batch=6, length=96, learning_rate=1
    )
    assert (here / "run/sft/adapters").is_dir()


def test_reward_models_are_trained_and_score(here):
    model = nemojax.load("models/mine")
    how: dict = {"batch": 6, "length": 96, "learning_rate": 1e-3}
    reward = nemojax.train.reward(model, "labels.jsonl", out="five", **how)
    texts = [Conversation.of("red", "red red"), Conversation.of("tin", "lead")]
    assert nemojax.score(reward, texts).shape == (2, 5)
    assert nemojax.score(model, texts).shape == (2,)
    with pytest.raises(nemojax.UserError, match="conversation 1: "):
        nemojax.score(model, [texts[0], texts[0].prompt])


@pytest.mark.slow
def test_reward_models_are_trained_on_pairs(here):
    reward = nemojax.train.reward(
        nemojax.load("models/mine"), "pairs.jsonl", out="one", batch=6, length=96,
        objective="bradley_terry", learning_rate=1e-3,
    )  # fmt: skip
    assert nemojax.score(reward, [Conversation.of("red", "red")]).shape == (1, 1)


def test_a_response_has_the_log_prob_that_it_scores(here):
    """The sampled tokens' log-probs, the stop token's too, are the response's score."""
    model = nemojax.load("models/mine")
    found = nemojax.generate(model, ["red", "tin gold"], max_tokens=24, temperature=0.5)
    assert len(found) == 2
    for prompt, one in zip(("red", "tin gold"), found, strict=True):
        assert one.finish_reason in ("stop", "length") and one.tokens
        if one.finish_reason == "stop":
            talk = Conversation.of(prompt, one.text)
            if model.tokenizer.encode(one.text) == one.tokens[:-1]:
                score = nemojax.score(model, [talk])[0]
                assert score == pytest.approx(sum(one.log_probs), abs=1e-3)
    plain = nemojax.load("models/mine", template="none")
    continued = nemojax.generate(plain, "red", max_tokens=24, temperature=0.5)
    assert continued[0].tokens != found[0].tokens


def test_there_and_back_again(here):
    pytest.importorskip("safetensors")
    nemojax.convert("models/mine", out="hf", to="hf")
    nemojax.convert("hf", out="back", to="folder")
    model, back = nemojax.load("models/mine"), nemojax.load("back")
    assert same(model.params, back.params)
    assert model_folder.read_config("back") == model.config
    with pytest.raises(nemojax.UserError, match="neither 'hf' nor 'folder'"):
        nemojax.convert("hf", out="x", to="gguf")


def test_plans():
    spec = nemojax.LayoutSpec(data=16, pipe=12, tensor=8, virtual_stages=8)
    found = nemojax.plan("nemotron4_340b", parallel=spec)
    assert found["parameters"]["total"] == 341_029_195_776
    assert found["memory"]["fits"] and "--parallel.pipe=12" in found["command"]
    config = nemojax.models.presets.get("minitron_4b")
    adapters = nemojax.plan(config, batch=8, stage=Alignment("dpo", rank=8))
    assert adapters["memory"]["fits"] and "command" not in adapters
    assert not nemojax.plan(config, batch=8)["memory"]["fits"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "dppo"}, "loss 'dppo' is none of dpo"),
        ({"learning_rat": 1.0}, "'learning_rat': did you mean learning_rate"),
        ({"batch": 0}, "batch=0 must be positive"),
        ({"layout": nemojax.LayoutSpec(tensor=3)}, "tensor=3"),
        ({"loss": lambda pairs: pairs.margin.sum()}, "a value for each pair"),
        ({"pairs": [{"prompt": "red", "response": "red"}]}, "rows, row 1: holds conv"),
        ({"pairs": [{"question": "red"}]}, "rows: unknown format, with the fields qu"),
        ({"pairs": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"pairs": []}, "No data file was named"),
        ({"loss": "rpo", "pairs": [UNSCORED]}, "row 1: no rewards"),
    ],
)
def test_mistakes_are_one_line(change, message, here):
    model = nemojax.load("models/mine")
    given = {"pairs": "pairs.jsonl", "out": "run", "batch": 6, "length": 96} | change
    with pytest.raises(nemojax.UserError, match=message) as error:
        nemojax.train.preference(model, **given)
    assert "\n" not in str(error.value)


def test_a_model_without_template_is_refused(here):
    model = dataclasses.replace(nemojax.load("models/mine"), template=None)
    with pytest.raises(nemojax.UserError, match="load it with template="):
        nemojax.train.sft(model, "chats.jsonl", out="run")

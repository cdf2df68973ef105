"""A stage learns what it is for, and keeps what it is told to."""

import dataclasses

import jax
import numpy as np
import pytest

from nemojax.data.batching import examples
from nemojax.data.records import MISSING
from nemojax.interop import adapters, model_folder
from nemojax.models import forward, lora
from nemojax.models.lora import LoraConfig
from nemojax.recipe.align import measures, stage, targets
from nemojax.recipe.align import run as align
from nemojax.recipe.align.settings import (
    BRADLEY_TERRY,
    PREFERENCE,
    PREFERENCES,
    REGRESSION,
    SFT,
    StageSettings,
)
from nemojax.recipe.align.stage import start_params
from nemojax.training.stage import LOSS, Options
from tests.data.rows.real_data_test import FOLDER
from tests.recipe.align import toy

pytestmark = pytest.mark.usefixtures("quick_compile")
REAL = FOLDER / "reward" / "nemo_aligner_regression_rm.jsonl"


@pytest.fixture
def run(model, tmp_path):
    """(objective, ...) -> what a stage gives."""

    def run(objective, held_out=True, spec=toy.WHOLE, folder="run", **how):
        examples = toy.read(tmp_path / "rows.jsonl", objective, model)
        held = toy.read(tmp_path / "held.jsonl", objective, model, 20)
        options = Options(spec)
        settings = toy.settings(objective, **how)
        held = held if held_out else None
        return stage.train(
            "toy", settings, model, examples, held, tmp_path / folder, options
        )

    return run


def test_sft_learns_and_tells_of_every_step(run):
    trained = run(SFT, validate_every=10)
    first, last = trained.history[0], trained.history[-1]
    assert last["loss"] < 0.8 * first["loss"]
    assert all(0 <= row["padding"] < 0.6 for row in trained.history)
    assert trained.adapters is None
    measured = [row["step"] for row in trained.history if LOSS in row]
    assert measured == [10, 20]
    assert trained.history[-1][LOSS] < trained.history[9][LOSS]
    assert all(row["tokens"] > 0 for row in trained.history)


@pytest.mark.parametrize(
    "preference",
    [
        toy.DPO,
        toy.RPO,
        dataclasses.replace(toy.DPO, loss="ipo"),
        dataclasses.replace(toy.DPO, label_smoothing=0.2),
        dataclasses.replace(toy.RPO, distance="squared"),
    ],
    ids=["dpo", "rpo", "ipo", "cdpo", "rpo_squared"],
)
def test_preference_losses_begin_at_the_reference_and_widen_the_gap(run, preference):
    trained = run(PREFERENCE, preference=preference)
    first, last = trained.history[0], trained.history[-1]
    assert first["log_ratio_gap"] == first["kl_estimate"] == 0.0
    assert last["validation_log_ratio_gap"] > 0.1
    for side in ("chosen", "rejected"):
        with_beta = preference.beta * last[f"{side}_log_ratio"]
        assert last[f"implicit_reward_{side}"] == pytest.approx(with_beta, rel=1e-4)
        assert last[f"{side}_tokens"] > 3 and last[f"{side}_log_prob"] < 0
    assert last["validation_accuracy"] > 0.5


def test_regression_learns_what_can_be_told_and_measures_each_attribute(run):
    trained = run(REGRESSION, epochs=12)
    last = trained.history[-1]
    assert "lm_head" not in trained.params and "reward_head" in trained.params
    assert last["loss"] < 0.5 * trained.history[0]["loss"]
    assert last["validation_pearson_verbosity"] > 0.7
    names = {key.rsplit("_", 1)[1] for key in last if "pearson" in key}
    assert names == {"helpfulness", "correctness", "complexity", "verbosity"}


def test_the_parameters_with_the_lowest_held_out_loss_are_kept(run, monkeypatch):
    losses = iter([5.0, 2.0, 3.0, 2.5])
    seen = []

    def measure(params):
        seen.append(jax.device_get(params))
        return {LOSS: next(losses)}

    monkeypatch.setattr(measures, "make_measure", lambda *args: measure)
    trained = run(REGRESSION, keep_best=True, validate_every=5)
    assert len(seen) == 4
    for kept, best, last in zip(
        *map(jax.tree.leaves, (trained.params, seen[1], seen[3])), strict=True
    ):
        np.testing.assert_array_equal(kept, best)
        assert not np.array_equal(best, last)


def test_bradley_terry_orders_pairs(run):
    trained = run(BRADLEY_TERRY, epochs=8)
    losses = [row["loss"] for row in trained.history]
    assert losses[0] == pytest.approx(np.log(2), abs=0.1)
    assert np.mean(losses[-10:]) < 0.8 * losses[0]
    assert trained.params["reward_head"]["bias"].shape == (1,)


@pytest.mark.parametrize("reference", [stage.CACHED, stage.IN_STEP])
def test_a_loss_without_reference_computes_none(model, tmp_path, reference):
    pairs = toy.read(tmp_path / "rows.jsonl", PREFERENCE, model)
    trained = stage.train(
        "toy",
        toy.settings(PREFERENCE, preference=PREFERENCES["simpo"]),
        model,
        pairs,
        None,
        tmp_path / "run",
        Options(toy.WHOLE),
        reference_log_probs=reference,
    )
    first, last = trained.history[0], trained.history[-1]
    assert last["loss"] < 0.8 * first["loss"] and last["accuracy"] > first["accuracy"]
    assert "kl_estimate" not in first and not (tmp_path / "run/reference").exists()


def test_margins_and_rewards_reach_the_batch(model, tmp_path):
    """Those of its members, and 0 where the data say nothing or there is no pair."""
    rows = toy.pairs(7)
    for row in rows[:5]:
        row["margin"] = 0.5 + len(row["chosen"])
    encode = examples.preferences(model.tokenizer, model.template)
    path = toy.write(tmp_path / "rows.jsonl", rows)
    found = examples.read([path], encode, length=toy.LENGTH, values=3)
    settings = toy.settings(PREFERENCE, batch=4)
    packed = targets.pack(settings, toy.WHOLE, found)
    batches = targets.StageBatches(settings, packed, found.values)
    for k in range(len(packed)):
        members = list(packed.members(k))
        batch = batches[k]
        assert batch.valid.sum() == len(members)
        expected = np.nan_to_num(found.values[members])
        there = batch.margin[: len(members)]
        np.testing.assert_array_equal(there, expected[:, 2])
        np.testing.assert_array_equal(
            batch.rewards[: 2 * len(members)].reshape(-1, 2), expected[:, :2]
        )
        assert not batch.margin[len(members) :].any()


def test_adapters_train_alone_and_the_model_stays_the_reference(run, model):
    trained = run(PREFERENCE, lora=LoraConfig(rank=4))
    assert trained.history[0]["log_ratio_gap"] == 0.0
    assert trained.history[-1]["log_ratio_gap"] > 0.1
    assert forward.param_count(trained.adapters) < forward.param_count(model.params)
    for name in ("embedding", "final_norm"):
        same = jax.tree.map(
            np.array_equal, trained.params[name], jax.device_get(model.params[name])
        )
        assert all(jax.tree.leaves(same))
    kernel = ("layers", "mlp", "up")
    merged, base = (
        np.asarray(tree[kernel[0]][kernel[1]][kernel[2]])
        for tree in (trained.params, model.params)
    )
    assert not np.array_equal(merged, base)


def test_adapters_are_written_as_peft_reads_them_and_merge_to_the_model(
    model, tmp_path
):
    rows = toy.read(tmp_path / "rows.jsonl", SFT, model)
    settings = toy.settings(SFT, lora=LoraConfig(rank=4))
    folder = tmp_path / "stage"
    options = Options(toy.WHOLE)
    align.train_model(
        "toy", settings, model, rows, None, folder, options, consume=False
    )
    found, tree, _ = adapters.load(folder / "adapters", model.config)
    assert (found.rank, found.alpha) == (4, LoraConfig(rank=4).alpha)
    _, whole = model_folder.read(folder / "model")
    merged = lora.merge(jax.device_get(model.params), tree, found.scale)
    jax.tree.map(np.testing.assert_array_equal, merged, jax.device_get(whole))


def test_adapters_are_trained_where_zero_splits_the_frozen_model(run):
    """The layout that is the default, on two replicas, against one device."""
    found = [
        run(SFT, held_out=False, spec=spec, folder=str(spec.data), lora=LoraConfig(4))
        for spec in (toy.WHOLE, dataclasses.replace(toy.WHOLE, data=2, zero=1))
    ]
    for ours, theirs in zip(
        *(jax.tree.leaves(jax.device_get(one.adapters)) for one in found), strict=True
    ):
        assert np.abs(theirs).max() > 0
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_adapters_and_a_pipeline_are_refused(run):
    spec = dataclasses.replace(toy.WHOLE, pipe=2)
    with pytest.raises(ValueError, match="adapters are trained without a pipeline"):
        run(PREFERENCE, spec=spec, lora=LoraConfig(rank=4))


def test_a_reward_model_is_no_policy_and_needs_the_same_width(model):
    params = start_params(toy.settings(REGRESSION), model)
    judge = dataclasses.replace(model, params=params)
    with pytest.raises(ValueError, match="is a reward model, no policy"):
        start_params(toy.settings(SFT), judge)
    with pytest.raises(ValueError, match="gives 5 attributes, not 1"):
        start_params(toy.settings(BRADLEY_TERRY), judge)
    assert start_params(toy.settings(REGRESSION), judge) is params


def test_measures_of_attributes_are_those_of_numpy():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (40, 5)).astype(np.float32)
    predictions = labels + rng.normal(0, 0.7, labels.shape).astype(np.float32)
    labels[:, 2], labels[::3, 1], labels[:, 4] = MISSING, MISSING, 3.0
    found = measures.by_attribute(predictions, labels)
    there = labels[:, 1] != MISSING
    x, y = predictions[there, 1], labels[there, 1]
    assert found["pearson_correctness"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found["mse_correctness"] == pytest.approx(np.mean((x - y) ** 2))
    assert found["within_1_correctness"] == np.mean(np.abs(x - y) <= 1)
    assert np.isnan(found["pearson_verbosity"])
    assert not any("coherence" in name for name in found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "ppo"}, "'ppo' is none of sft"),
        ({"preference": None}, "needs a preference loss"),
        ({"batch": 0}, "batch=0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(toy.settings(PREFERENCE), **changes)


def test_settings_are_told_as_json():
    told = toy.settings(PREFERENCE, lora=LoraConfig(rank=4)).to_json()
    assert told["preference"]["beta"] == 0.5 and told["lora"]["rank"] == 4
    assert isinstance(StageSettings(SFT, toy.RATE).to_json(), dict)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="needs real data, see NEMOJAX_DATA")
def test_rows_of_nvidias_reward_models_are_trained_on(model, tmp_path):
    """Templated text and nine labels, of which the first four stand for nothing."""
    found = examples.read(
        [REAL], examples.labelled(model.tokenizer, model.template), length=4096,
        values=5,
    )  # fmt: skip
    assert found.counts == {"rows": 8, "examples": 8}
    assert found.detected == {str(REAL): "nemo_regression"}
    assert ((found.values >= 0) & (found.values <= 4)).all()
    end = model.tokenizer.control("<extra_id_2>")
    for [(tokens, mask)] in found.groups:
        assert tokens[-1] == end and not mask.any()
    settings = toy.settings(REGRESSION, length=4096, batch=8, epochs=5)
    options = Options(toy.WHOLE)
    history = stage.train(
        "real", settings, model, found, None, tmp_path, options
    ).history
    assert history[0]["weight"] == 40
    assert history[-1]["loss"] < history[0]["loss"]

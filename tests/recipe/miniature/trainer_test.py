"""Every training stage learns its data, and goes on where it was stopped."""

import dataclasses

import numpy as np
import pytest

from nemojax.data.batching import packing
from nemojax.data.records import AttributeLabels, PreferencePair
from nemojax.parallel import fingerprint
from nemojax.recipe.miniature import trainer as trainers
from nemojax.recipe.miniature.trainer import Phase
from nemojax.training import checkpoints
from nemojax.training.objectives import PreferenceConfig
from nemojax.training.optimizer import OptimizerConfig

pytestmark = pytest.mark.usefixtures("quick_compile")

PHASE = Phase(
    "toy",
    OptimizerConfig(1e-2, "constant", weight_decay=0.0),
    rows=4,
    length=32,
    checkpoint_every=4,
)
DPO = PreferenceConfig("dpo", beta=0.5, sft_weight=0.01)
RPO = PreferenceConfig("rpo", beta=0.5)


@pytest.fixture(scope="module")
def data(tokenizer, trainer, prompts):
    """What each stage trains on, six of each: words said twice are right."""
    words = [conversation.messages[0].content.split()[0] for conversation in prompts]
    documents = [tokenizer.encode(f"{word} {word}") for word in words * 12]
    right = [f"{word} {word}" for word in words]
    answers = list(zip(prompts, right, words, strict=True))
    return {
        "rows": packing.pack_documents(documents, length=32, bos_id=tokenizer.bos_id),
        "examples": [
            trainer.template.encode_response(tokenizer, prompt, text)
            for prompt, text, _ in answers
        ],
        "labels": [
            AttributeLabels(prompt.with_response(text), (4.0 * good, 1, 2, 3, -100.0))
            for prompt, one, word in answers
            for text, good in ((one, 1), (word, 0))
        ],
        "pairs": [PreferencePair(*answer, 2.0, 1.0) for answer in answers],
    }


@pytest.fixture(scope="module")
def stages(trainer, data, make_params):
    """By name: (phase, folder) -> (parameters, history)."""
    params, rated, ranked = (make_params(count) for count in (0, 5, 1))
    pairs = data["pairs"]
    return {
        "pretrain": lambda *to: trainer.pretrain(params, data["rows"], *to),
        "sft": lambda *to: trainer.sft(params, data["examples"], *to),
        "reward": lambda *to: trainer.reward(rated, data["labels"], *to),
        "bradley_terry": lambda *to: trainer.bradley_terry(ranked, pairs, *to),
        "dpo": lambda *to: trainer.prefer(params, pairs, DPO, *to),
        "rpo": lambda *to: trainer.prefer(params, pairs, RPO, *to),
    }


EPOCHS = {
    "pretrain": 2, "sft": 12, "reward": 8, "bradley_terry": 8, "dpo": 6, "rpo": 8
}  # fmt: skip


@pytest.mark.parametrize("name", EPOCHS)
def test_a_stage_learns_and_a_stopped_one_ends_alike(
    stages, tmp_path, monkeypatch, name
):
    """Stopped right after its first checkpoint, and run again: equal bits."""
    phase = dataclasses.replace(PHASE, epochs=EPOCHS[name])
    params, history = stages[name](phase, tmp_path / "whole")
    losses = [row["loss"] for row in history]
    assert len(losses) > 6
    assert np.mean(losses[-2:]) < 0.8 * losses[0]

    save = checkpoints.Checkpoints.save

    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            stages[name](phase, tmp_path / "stopped")
    again, repeated = stages[name](phase, tmp_path / "stopped")
    assert fingerprint.parameters_sha256(again) == fingerprint.parameters_sha256(params)
    assert [row["loss"] for row in repeated] == losses


@pytest.mark.parametrize("name", ["dpo", "rpo"])
def test_a_preference_stage_starts_at_its_reference_and_prefers_the_chosen(
    stages, tmp_path, name
):
    phase = dataclasses.replace(PHASE, epochs=EPOCHS[name], checkpoint_every=0)
    _, history = stages[name](phase, tmp_path)
    assert abs(history[0]["log_ratio_gap"]) < 1e-3
    assert history[0]["preference_loss"] == pytest.approx(
        {"dpo": np.log(2), "rpo": 0.1109}[name], abs=1e-3
    )
    assert history[-1]["log_ratio_gap"] > 1
    assert history[-1]["accuracy"] == 1
    if name == "rpo":  # KL of Bernoulli(sigmoid(2 - 1)) from a fair coin, above
        assert history[0]["target_reward_gap"] == 1


def test_bradley_terry_starts_undecided(stages, tmp_path):
    """The reward head starts at zero: log 2 a pair, and no pair is right."""
    phase = dataclasses.replace(PHASE, epochs=1, checkpoint_every=0)
    _, history = stages["bradley_terry"](phase, tmp_path)
    assert history[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert history[0]["accuracy"] == 0


def test_a_missing_label_is_not_trained(stages, tmp_path):
    """The last attribute has no labels: its bias stays where it started."""
    phase = dataclasses.replace(PHASE, epochs=2, checkpoint_every=0)
    params, history = stages["reward"](phase, tmp_path)
    bias = np.asarray(params["reward_head"]["bias"])
    assert bias[:4].all()
    assert bias[4] == 0
    assert all(row["weight"] % 4 == 0 for row in history)


def test_epochs_see_all_rows_in_orders_of_their_own(trainer, data, monkeypatch):
    """Each pass has every example once, and members name the examples."""
    seen = []

    def record(self, kind, preference, params, batches, phase, directory):
        seen.extend(batches)
        return params, []

    monkeypatch.setattr(trainers.Trainer, "_fit", record)
    phase = dataclasses.replace(PHASE, rows=1, length=24, epochs=3)
    trainer.sft({}, data["examples"], phase, None)
    found = [tuple(batch.tokens[0][batch.segment_ids[0] == 1]) for batch in seen]
    examples = [tuple(tokens) for tokens, _ in data["examples"]]
    passes = [found[i : i + 6] for i in range(0, 18, 6)]
    assert all(sorted(one) == sorted(examples) for one in passes)
    assert len({tuple(one) for one in passes}) == 3


def test_an_example_longer_than_a_row_is_refused(trainer, data, make_params, tmp_path):
    phase = dataclasses.replace(PHASE, length=8)
    with pytest.raises(ValueError, match="longer than a row of 8"):
        trainer.sft(make_params(0), data["examples"], phase, tmp_path)


def test_rpo_needs_rewards_and_names_the_pair_without(
    trainer, data, make_params, tmp_path
):
    pairs = list(data["pairs"])
    pairs[3] = dataclasses.replace(pairs[3], rejected_reward=None)
    with pytest.raises(ValueError, match="pair 3 has no rewards"):
        trainer.prefer(make_params(0), pairs, RPO, PHASE, tmp_path)


def test_stages_with_other_schedules_share_a_compiled_step(stages, tmp_path):
    """Nothing is compiled again for a peak, a warm-up or a cosine."""
    count = trainers._compiled_step.cache_info().misses
    for index, optimizer in enumerate([
        PHASE.optimizer,
        dataclasses.replace(PHASE.optimizer, peak_lr=1e-4, warmup_steps=3),
        dataclasses.replace(PHASE.optimizer, schedule="cosine"),
    ]):  # fmt: skip
        phase = dataclasses.replace(PHASE, optimizer=optimizer, checkpoint_every=0)
        stages["sft"](phase, tmp_path / str(index))
    assert trainers._compiled_step.cache_info().misses <= count + 1


def test_a_pair_trains_its_responses_only(trainer, data, tokenizer):
    """The mask marks what follows the prompt, which both responses share."""
    pair = data["pairs"][0]
    prompt = trainer.template.encode_prompt(tokenizer, pair.prompt)
    for (tokens, mask), text in zip(
        trainer.encode_pair(pair), (pair.chosen, pair.rejected), strict=True
    ):
        assert tokens[: len(prompt)] == prompt
        assert mask == [0] * len(prompt) + [1] * (len(tokens) - len(prompt))
        assert tokenizer.decode(tokens[len(prompt) :]) == f"{text}\n"


def test_fitting_keeps_the_order_and_counts_what_it_leaves_out():
    examples = [([1] * size, [0] * size) for size in (3, 9, 4, 5, 6)]
    kept, longer = trainers.fitting(examples, 5)
    assert [len(tokens) for tokens, _ in kept] == [3, 4, 5]
    assert longer == 2

"""Objectives against arithmetic on single sequences, and what they optimise."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from nemojax import losses
from nemojax.errors import UserError
from nemojax.losses.preference import reward_distance
from nemojax.models import forward
from nemojax.training import objectives, step
from nemojax.training.objectives import (
    BradleyTerryBatch,
    KTOBatch,
    PreferenceBatch,
    PreferenceConfig,
    RewardBatch,
)

pytestmark = pytest.mark.usefixtures("quick_compile")

DPO = PreferenceConfig("dpo", beta=0.1)
RPO = PreferenceConfig("rpo", beta=0.1, eta=0.5)


@pytest.fixture(scope="module")
def packed(pack, sequences):
    """Eight sequences in three rows, with room for ten."""
    return pack(sequences, 3, 26, max_sequences=10)


def on_one_row(function, config, params, tokens, length=12):
    """The first `len(tokens)` outputs of a forward function for one sequence."""
    row = np.zeros((1, length), np.int32)
    row[0, : len(tokens)] = tokens
    return np.asarray(function(config, params, row))[0, : len(tokens)]


@pytest.fixture(scope="module")
def log_probs(config, params, sequences):
    """Masked log-prob sum of each sequence, computed alone."""
    function = jax.jit(forward.token_log_probs, static_argnums=0)
    return np.array([
        on_one_row(function, config, params, tokens) @ np.array(mask)
        for tokens, mask in sequences
    ])  # fmt: skip


@pytest.fixture(scope="module")
def pairs(packed, log_probs):
    """Four pairs whose reference is the policy; the last of five slots is empty."""
    reference = np.zeros(10, np.float32)
    reference[:8] = log_probs
    rewards = np.array([2, 1, 0.5, 0, 1, 3, 4, 4, np.nan, np.nan], np.float32)
    margin = np.array([1, 2, 0, 4, np.nan], np.float32)
    valid = np.array([1, 1, 1, 1, 0], np.float32)
    return PreferenceBatch(
        packed.batch, packed.sequence_ids, reference, rewards, margin, valid
    )


def evaluated(objective, params, batch):
    """(mean loss, weight, mean metrics)."""
    loss, weight, metrics = jax.jit(objective)(params, batch)
    means = {name: float(a / b) for name, (a, b) in metrics.items()}
    return float(loss / weight), float(weight), means


def test_language_modelling_is_the_mean_negative_log_prob(
    config, params, packed, sequences, log_probs
):
    objective = objectives.language_model_objective(config)
    loss, weight, _ = evaluated(objective, params, packed.batch)
    assert weight == sum(sum(mask) for _, mask in sequences)
    assert loss == pytest.approx(-log_probs.sum() / weight, rel=1e-5)


@pytest.fixture(scope="module")
def rewarding(params):
    """Parameters whose reward head is not zero."""
    rng = np.random.default_rng(3)
    kernel = rng.normal(size=(32, 3)).astype(np.float32)
    return params | {"reward_head": {"kernel": kernel, "bias": kernel[0]}}


@pytest.fixture(scope="module")
def rewards(config, rewarding, sequences):
    """[8, 3] attributes at each sequence's last token, computed alone."""
    function = jax.jit(forward.rewards, static_argnums=0)
    return np.array([
        on_one_row(function, config, rewarding, tokens)[-1] for tokens, _ in sequences
    ])  # fmt: skip


def test_attribute_regression_is_the_error_at_the_last_tokens(
    config, rewarding, packed, rewards
):
    """Over what is labelled: missing labels and absent sequences do not count."""
    labels = np.full((10, 3), -100.0, np.float32)
    labels[:8] = np.arange(24).reshape(8, 3) % 5
    labels[2, 1] = labels[5, 0] = -100.0
    batch = RewardBatch(packed.batch, packed.last_token, labels)
    objective = objectives.reward_objective(config)
    loss, weight, _ = evaluated(objective, rewarding, batch)
    known = labels[:8] != -100
    assert weight == known.sum() == 22
    errors = (rewards - labels[:8])[known]
    assert loss == pytest.approx((errors**2).mean(), rel=1e-4)


def test_bradley_terry_compares_attribute_0_of_neighbours(
    config, rewarding, packed, rewards
):
    margins = np.array([0, 0.5, 2, 3])
    batch = BradleyTerryBatch(
        packed.batch, packed.last_token, np.append(margins, np.nan), np.arange(5) < 4
    )
    gaps = rewards[0::2, 0] - rewards[1::2, 0]
    for pairwise, expected in (
        ("plain", np.log1p(np.exp(-gaps))),
        ("margin", np.log1p(np.exp(margins - gaps))),
        ("scaled", margins * np.log1p(np.exp(-gaps))),
    ):
        objective = objectives.bradley_terry_objective(config, pairwise=pairwise)
        loss, weight, metrics = evaluated(objective, rewarding, batch)
        assert weight == 4
        assert loss == pytest.approx(expected.mean(), rel=1e-4)
        assert metrics["accuracy"] == (gaps > 0).mean()
    with pytest.raises(ValueError, match="pairwise 'much' is none of plain"):
        objectives.bradley_terry_objective(config, pairwise="much")


def test_dpo_at_its_reference_has_no_gap_and_loss_log_2(config, params, pairs):
    objective = objectives.preference_objective(config, DPO)
    loss, weight, metrics = evaluated(objective, params, pairs)
    assert weight == 4
    assert loss == pytest.approx(np.log(2), rel=1e-5)
    assert metrics["log_ratio_gap"] == pytest.approx(0, abs=1e-4)


def test_rpo_at_its_reference_is_the_divergence_from_a_fair_coin(config, params, pairs):
    """KL(Bernoulli(sigmoid(eta * reward gap)) || Bernoulli(1/2))."""
    objective = objectives.preference_objective(config, RPO)
    loss, _, metrics = evaluated(objective, params, pairs)
    q = 1 / (1 + np.exp(-0.5 * np.array([1, 0.5, -2, 0])))
    divergence = q * np.log(2 * q) + (1 - q) * np.log(2 * (1 - q))
    assert loss == pytest.approx(divergence.mean(), abs=1e-5)
    assert metrics["target_reward_gap"] == pytest.approx(-0.0625)
    assert float(reward_distance(np.zeros(1), np.ones(1))[0]) > 0


def test_the_sft_term_is_the_chosen_log_prob(config, params, pairs, log_probs):
    """With preference weight 0 it is all there is: rejection-sampling fine-tuning."""
    only_sft = dataclasses.replace(DPO, sft_weight=0.25, preference_weight=0.0)
    objective = objectives.preference_objective(config, only_sft)
    loss, _, _ = evaluated(objective, params, pairs)
    assert loss == pytest.approx(-0.25 * log_probs[0::2].mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "ppo"}, "loss 'ppo' is none of dpo, ipo, rpo, simpo"),
        ({"distance": "kl"}, "distance 'kl' is none of backward_kl"),
        ({"beta": 0.0}, "beta=0.0 must be positive"),
        ({"preference_weight": 0.0}, "both 0"),
        ({"label_smoothing": 0.5}, "label_smoothing=0.5 is outside"),
        ({"gamma": 1.0}, "gamma=1.0: dpo has no such option"),
        ({"loss": "orpo", "label_smoothing": 0.1}, "orpo has no such option"),
    ],
)
def test_what_no_preference_loss_can_be_made_of_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(DPO, **changes)


def test_every_loss_is_that_of_sums_counts_and_rewards(
    config, params, pairs, log_probs, sequences
):
    """Whatever the slot without a pair holds."""
    known = {
        name: PreferenceConfig(name, beta=0.3, sft_weight=0.1)
        for name in losses.PREFERENCES
    }
    reference = log_probs + np.linspace(-2, 2, 8)
    batch = pairs._replace(reference=np.append(reference, [np.nan, np.nan]))
    tokens = np.array([sum(mask) for _, mask in sequences], np.float32)
    both = losses.Responses(log_probs, reference, tokens, pairs.rewards[:8])
    sides = [jax.tree.map(lambda leaf, k=k: leaf[k::2], both) for k in (0, 1)]

    @jax.jit
    def all_of_them(params, batch):
        return {
            name: objectives.preference_objective(config, loss)(params, batch)
            for name, loss in known.items()
        }

    for name, (loss, weight, metrics) in all_of_them(params, batch).items():
        expected = known[name](losses.Pairs(*sides)).values.sum()
        assert weight == 4
        assert loss == pytest.approx(float(expected), rel=1e-4), name
        assert metrics["chosen_tokens"][0] == tokens[0::2].sum()
        assert ("kl_estimate" in metrics) == known[name].needs_reference


def own_loss(pairs):
    """DPO with an offset, on means; nothing in it knows of slots without a pair."""
    scores = [
        (side.log_probs - side.reference) / side.tokens + side.rewards
        for side in (pairs.chosen, pairs.rejected)
    ]
    gap = scores[0] - scores[1] - pairs.margin
    return losses.Loss(-jax.nn.log_sigmoid(gap), pairs.valid, {"gap": gap})


def test_any_function_of_pairs_can_be_trained_with(config, params, pairs, sequences):
    """An empty slot with NaN in all that is known of it touches no gradient."""
    objective = objectives.preference_objective(config, own_loss)
    loss, weight, metrics = evaluated(objective, params, pairs)
    gap = pairs.rewards[0:8:2] - pairs.rewards[1:8:2] - pairs.margin[:4]
    assert weight == 4
    assert metrics["gap"] == pytest.approx(gap.mean(), abs=1e-4)
    assert loss == pytest.approx(np.log1p(np.exp(-gap)).mean(), rel=1e-4)
    tokens = [sum(mask) for _, mask in sequences]
    assert metrics["rejected_tokens"] == np.mean(tokens[1::2])
    rows = trained(config, own_loss, params, pairs, 0.5, steps=10)
    assert rows[-1]["loss"] < rows[0]["loss"] and not rows[-1]["skipped"]


def test_a_loss_that_needs_no_reference_is_given_none(config, params, pairs):
    def loss(pairs):
        assert pairs.chosen.reference is None and pairs.rejected.reference is None
        return losses.simpo(pairs, beta=1.0, gamma=0.0)

    loss.needs_reference = False
    assert not objectives.needs_reference(loss)
    assert objectives.needs_reference(own_loss)
    garbage = pairs._replace(reference=np.full(10, np.nan, np.float32))
    objective = objectives.preference_objective(config, loss)
    assert np.isfinite(evaluated(objective, params, garbage)[0])


def test_the_values_alone_are_a_loss(config, params, pairs):
    """What a function gives where there is no pair is left out, NaN or not."""

    def values(pairs):
        return own_loss(pairs).values / pairs.valid

    bare = evaluated(objectives.preference_objective(config, values), params, pairs)
    whole = evaluated(objectives.preference_objective(config, own_loss), params, pairs)
    assert bare[:2] == whole[:2]


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (lambda pairs: own_loss(pairs).values.sum(), r"returns \[\]"),
        (lambda pairs: own_loss(pairs)._replace(values=1.0), "returns float"),
        (lambda pairs: None, "returns NoneType"),
    ],
)
def test_what_is_no_loss_is_named(loss, what, config, params, pairs):
    objective = objectives.preference_objective(config, loss)
    with pytest.raises(UserError, match=what):
        jax.eval_shape(objective, params, pairs)


def test_kto_takes_its_baseline_from_the_odd_sequences(
    config, params, packed, log_probs
):
    reference = np.zeros(10, np.float32)
    reference[:8] = log_probs - [0.5, 1, -0.5, 2, 1, 3, 0.2, 4]
    desirable = np.array([1, 0, 1, 0, 1], np.float32)
    batch = KTOBatch(
        packed.batch, packed.sequence_ids, reference, desirable, np.arange(5) < 4
    )
    objective = objectives.kto_objective(
        config, beta=0.5, desirable_weight=2.0, undesirable_weight=1.0
    )
    loss, weight, metrics = evaluated(objective, params, batch)
    margins = 0.5 * (np.array([0.5, -0.5, 1, 0.2]) - 2.5) * [1, -1, 1, -1]
    expected = np.array([2, 1, 2, 1]) / (1 + np.exp(margins))
    assert weight == 4
    assert metrics["kl_baseline"] == pytest.approx(2.5, abs=1e-4)
    assert loss == pytest.approx(expected.mean(), rel=1e-4)


def trained(config, loss, params, batch, rate, steps=30):
    """Metrics of some steps of plain gradient descent."""
    descent = optax.identity()
    objective = objectives.preference_objective(config, loss)
    take_step = step.make_train_step(objective, descent)
    state, rows = step.init_state(params, descent), []
    for _ in range(steps):
        state, metrics = take_step(state, batch, np.float32(rate))
        rows.append({name: float(value) for name, value in metrics.items()})
    return rows


def test_training_by_dpo_widens_the_gap(config, params, pairs):
    rows = trained(config, DPO, params, pairs, 0.5)
    assert rows[0]["loss"] == pytest.approx(np.log(2), rel=1e-4)
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert rows[-1]["log_ratio_gap"] > rows[10]["log_ratio_gap"] > 1
    assert rows[-1]["accuracy"] == 1


def test_training_by_rpo_brings_the_gaps_to_their_targets(config, params, pairs):
    """beta * gap goes to eta * reward gap, above zero here; DPO's would run away."""
    rewards = np.tile(np.array([3.0, 1.0], np.float32), 5)
    rows = trained(config, RPO, params, pairs._replace(rewards=rewards), 0.5)
    assert rows[-1]["log_ratio_gap"] > rows[0]["log_ratio_gap"] + 5
    assert rows[-1]["implicit_reward_gap"] == pytest.approx(1.0, abs=0.1)
    assert rows[-1]["loss"] < 0.05 * rows[0]["loss"]

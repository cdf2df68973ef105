"""SimPO and ORPO are those of TRL on random batches; runs where TRL is installed."""

import types

import jax
import numpy as np
import pytest

from nemojax import losses
from nemojax.losses import Pairs, Responses

torch = pytest.importorskip("torch")
cpo = pytest.importorskip("trl.experimental.cpo")
orpo = pytest.importorskip("trl.experimental.orpo")

BETA, GAMMA, SMOOTHING = 0.8, 0.5, 0.1
OPTIONS = types.SimpleNamespace(
    beta=BETA,
    simpo_gamma=GAMMA,
    label_smoothing=SMOOTHING,
    loss_type="simpo",
    alpha=0.0,
    accelerator=types.SimpleNamespace(device="cpu"),
)


def their_simpo(chosen, rejected):
    return cpo.CPOTrainer.cpo_loss(OPTIONS, chosen, rejected)


def their_orpo(chosen, rejected):
    """With the likelihood term that TRL's trainer adds; here of the response alone."""
    ratio, *rewards = orpo.ORPOTrainer.odds_ratio_loss(OPTIONS, chosen, rejected)
    return -chosen - ratio, *rewards


def our_simpo(pairs):
    return losses.simpo(pairs, beta=BETA, gamma=GAMMA, label_smoothing=SMOOTHING)


def our_orpo(pairs):
    return losses.orpo(pairs, beta=BETA)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(our_simpo, their_simpo), (our_orpo, their_orpo)],
    ids=["simpo", "orpo"],
)
def test_values_gradients_and_rewards_are_equal(ours, theirs, seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 300, (2, 32)).astype(np.float32)
    sums = -tokens * rng.exponential(1.5, (2, 32)).astype(np.float32)

    def total(sums):
        sides = [Responses(x, tokens=n) for x, n in zip(sums, tokens, strict=True)]
        loss = ours(Pairs(*sides))
        return loss.values.sum(), loss

    gradient, found = jax.grad(total, has_aux=True)(sums)
    theirs_sums = torch.tensor(sums, requires_grad=True)
    values, *rewards = theirs(*(theirs_sums / torch.tensor(tokens)))
    values.sum().backward()
    for mine, expected in (
        (found.values, values),
        (gradient, theirs_sums.grad),
        (found.metrics["implicit_reward_chosen"], rewards[0]),
        (found.metrics["implicit_reward_rejected"], rewards[1]),
    ):
        expected = expected.detach().numpy()
        np.testing.assert_allclose(mine, expected, rtol=2e-5, atol=1e-6)

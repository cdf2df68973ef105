"""The schedules and AdamW, in closed form."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nemojax.training import optimizer
from nemojax.training.optimizer import OptimizerConfig

pytestmark = pytest.mark.usefixtures("quick_compile")


def rates(total, **options):
    config = OptimizerConfig(peak_lr=2.0, **options)
    return [optimizer.learning_rate(config, step, total) for step in range(total)]


@pytest.mark.parametrize("schedule", optimizer.SCHEDULES)
def test_warm_up_is_linear_and_reaches_the_peak_at_its_end(schedule):
    found = rates(9, schedule=schedule, warmup_steps=4)
    np.testing.assert_allclose(found[:5], [2 / 5, 4 / 5, 6 / 5, 8 / 5, 2.0])


def test_a_constant_stays():
    assert rates(5, schedule="constant") == [2.0] * 5


def test_the_cosine_falls_to_its_final_fraction():
    """peak * (f + (1 - f) * (1 + cos(pi * t)) / 2), t from 0 at the warm-up's end."""
    found = rates(12, warmup_steps=2, final_fraction=0.25)
    for step, rate in enumerate(found[2:]):
        cosine = (1 + math.cos(math.pi * step / 10)) / 2
        assert rate == pytest.approx(2 * (0.25 + 0.75 * cosine))
    assert found[7] == pytest.approx(2 * (0.25 + 0.75 / 2))  # half way
    config = OptimizerConfig(2.0, warmup_steps=2, final_fraction=0.25)
    assert optimizer.learning_rate(config, 12, 12) == pytest.approx(0.5)
    assert optimizer.learning_rate(config, 99, 12) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "cubic"}, r"unknown schedule 'cubic'.*cosine.*constant"),
        ({"peak_lr": 0.0}, "peak_lr must be positive, got 0.0"),
        ({"peak_lr": math.nan}, "peak_lr must be positive, got nan"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**{"peak_lr": 1.0, **options})


def updates(config, grads, params, steps=1):
    """The update after some steps with the same gradients."""
    adamw = optimizer.make_optimizer(config)
    state = adamw.init(params)
    for _ in range(steps):
        found, state = adamw.update(grads, state, params)
    return found, state


@pytest.mark.parametrize("steps", [1, 3])
def test_adamw_with_one_gradient_is_its_sign_and_the_decay(steps):
    """Bias-corrected moments of a constant g: g / (|g| + epsilon) + decay * p."""
    config = OptimizerConfig(1.0, weight_decay=0.5, clip_norm=1e9, epsilon=1e-3)
    params = {"kernel": jnp.array([1.0, -2.0, 3.0])}
    grads = {"kernel": jnp.array([0.1, -4.0, 0.002])}
    found, _ = updates(config, grads, params, steps)
    g, p = np.array(grads["kernel"]), np.array(params["kernel"])
    np.testing.assert_allclose(
        found["kernel"], g / (np.abs(g) + 1e-3) + 0.5 * p, rtol=1e-4
    )


def test_norms_and_biases_do_not_decay_and_everything_else_does(params):
    """Without gradients, what moves is what decays."""
    grads = optax.tree.zeros_like(params)
    ones = optax.tree.ones_like(params)
    config = OptimizerConfig(1.0, weight_decay=0.25)
    found, _ = jax.jit(functools.partial(updates, config))(grads, ones)
    still, moved = set(), set()
    for path, update in jax.tree_util.tree_leaves_with_path(found):
        name = "/".join(entry.key for entry in path)
        assert np.isin(update, [0.0, 0.25]).all(), name
        (moved if np.asarray(update).all() else still).add(name)
    assert still == {
        "final_norm/bias",
        "final_norm/weight",
        "layers/attention_norm/bias",
        "layers/attention_norm/weight",
        "layers/mlp_norm/bias",
        "layers/mlp_norm/weight",
        "reward_head/bias",
    }
    assert {"embedding/table", "lm_head/kernel", "reward_head/kernel"} < moved
    assert len(moved) == 9


@pytest.mark.parametrize(("scale", "norm"), [(100.0, 0.5), (0.01, 0.01)])
def test_gradients_are_clipped_by_their_global_norm(scale, norm):
    """The first moment after a step is (1 - beta1) times the clipped gradient."""
    config = OptimizerConfig(1.0, clip_norm=0.5, beta1=0.75)
    grads = {"a": jnp.array([0.6]) * scale, "b": jnp.array([0.8]) * scale}
    _, state = updates(config, grads, grads)
    moments = optax.tree.get(state, "mu")
    np.testing.assert_allclose(moments["a"], 0.25 * 0.6 * norm, rtol=1e-5)
    np.testing.assert_allclose(moments["b"], 0.25 * 0.8 * norm, rtol=1e-5)


def test_the_average_forgets_with_its_factor():
    """Before three steps the parameters were 1, 2 and 4: ((1 d + e) d + 2 e) d + 4 e
    with e = 1 - d, in float32 whatever they are."""
    adam = optimizer.make_optimizer(OptimizerConfig(1.0, average_decay=0.75))
    state = adam.init({"w": jnp.ones(2, jnp.bfloat16)})
    for value in (1.0, 2.0, 4.0):
        params = {"w": jnp.full(2, value, jnp.bfloat16)}
        _, state = adam.update({"w": jnp.ones(2)}, state, params)
    found = optimizer.average(state)
    assert found["w"].dtype == jnp.float32
    np.testing.assert_allclose(found["w"], ((1.0) * 0.75 + 2 * 0.25) * 0.75 + 4 * 0.25)
    assert (
        optimizer.average(optimizer.make_optimizer(OptimizerConfig(1.0)).init({}))
        is None
    )

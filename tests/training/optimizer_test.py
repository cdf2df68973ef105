"""AdamW in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nemojax.training import optimizer
from nemojax.training.optimizer import OptimizerConfig

pytestmark = pytest.mark.usefixtures("quick_compile")


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
    config = OptimizerConfig(weight_decay=0.5, clip_norm=1e9, epsilon=1e-3)
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
    config = OptimizerConfig(weight_decay=0.25)
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
    config = OptimizerConfig(clip_norm=0.5, beta1=0.75)
    grads = {"a": jnp.array([0.6]) * scale, "b": jnp.array([0.8]) * scale}
    _, state = updates(config, grads, grads)
    moments = optax.tree.get(state, "mu")
    np.testing.assert_allclose(moments["a"], 0.25 * 0.6 * norm, rtol=1e-5)
    np.testing.assert_allclose(moments["b"], 0.25 * 0.8 * norm, rtol=1e-5)

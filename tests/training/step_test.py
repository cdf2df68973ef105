"""One step's result depends on its sequences, not on how they are laid out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nemojax.models import lora
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from nemojax.training import objectives, programs, step
from nemojax.training.step import Passes

pytestmark = pytest.mark.usefixtures("quick_compile")

# Updates are gradients: with learning rate 1 the parameters lose their gradient.
PLAIN = optax.identity()


@pytest.fixture(scope="module")
def take(config, params):
    """(batch, layout) -> (gradients, metrics) of one step."""

    @functools.cache
    def compiled(layout):
        objective = objectives.language_model_objective(config, layout)
        return step.make_train_step(objective, PLAIN)

    def run(batch, layout=None):
        state = step.init_state(params, PLAIN)
        after, metrics = compiled(layout)(state, batch, np.float32(1))
        assert int(after.step) == 1
        grads = jax.tree.map(lambda p, q: np.asarray(p - q), params, after.params)
        return grads, {name: float(value) for name, value in metrics.items()}

    return run


@pytest.fixture(scope="module")
def spread(pack, sequences):
    """One sequence a row, eight rows of 26."""
    rows = [pack([sequence], 1, 26).batch for sequence in sequences]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)


@pytest.fixture(scope="module")
def expected(take, spread):
    return take(spread)


def assert_same(found, expected):
    """Equal gradients and metrics, up to the rounding of another order of sums."""
    grads, metrics = found
    for one, other in zip(
        jax.tree.leaves(grads), jax.tree.leaves(expected[0]), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert metrics == pytest.approx(expected[1], rel=1e-4)


def test_the_loss_is_the_mean_over_all_targets(expected, sequences):
    """A new model is close to uniform: log V a token, and the weight counts tokens."""
    _, metrics = expected
    assert metrics["weight"] == sum(sum(mask) for _, mask in sequences)
    assert metrics["loss"] == pytest.approx(np.log(67), rel=0.05)
    assert metrics["grad_norm"] > 0.1


def test_packing_and_rows_of_padding_change_nothing(take, pack, sequences, expected):
    """Eight rows of one sequence, or three rows of many and five of padding."""
    packed = pack(sequences, 8, 26)
    assert packed.segment_ids[0].max() > 1
    assert not packed.segment_ids[3:].any()
    assert_same(take(packed.batch), expected)


def test_passes_change_nothing(take, spread, expected):
    """Parts of unequal weight: a mean of means would differ."""
    parts = jax.tree.map(lambda leaf: leaf.reshape(4, 2, 26), spread)
    weights = parts.loss_mask.sum((1, 2))
    assert weights.max() > weights.min()
    assert_same(take(Passes(parts)), expected)


def test_data_parallel_changes_nothing(take, spread, expected):
    assert_same(take(spread, layout=Layout(meshes.make_mesh(data=2))), expected)


def test_a_batch_without_targets_changes_nothing_and_gives_no_nan(take, spread):
    empty = spread._replace(loss_mask=np.zeros_like(spread.loss_mask))
    grads, metrics = take(empty)
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads))
    assert metrics == {"loss": 0.0, "weight": 0.0, "grad_norm": 0.0, "skipped": 0.0}


def quadratic(params, batch):
    """Sum over entries of (p - x)^2 / 2, whose gradient is the sum of p - x."""
    error = params["p"] - batch
    return 0.5 * jnp.sum(error**2), jnp.float32(len(batch)), {}


def test_the_learning_rate_scales_the_step_and_is_no_constant_of_the_program():
    take_step = step.make_train_step(quadratic, PLAIN)
    batch = np.array([1.0, 2.0, 6.0], np.float32)
    for rate in (0.5, 0.25):
        state = step.init_state({"p": jnp.float32(0.0)}, PLAIN)
        state, metrics = take_step(state, batch, np.float32(rate))
        assert float(state.params["p"]) == pytest.approx(rate * 3.0)
        assert float(metrics["grad_norm"]) == pytest.approx(3.0)
    assert take_step._cache_size() == 1


def test_the_gradient_norm_is_reported_before_clipping():
    clip = optax.clip_by_global_norm(0.1)
    take_step = step.make_train_step(quadratic, clip)
    state = step.init_state({"p": jnp.float32(0.0)}, clip)
    batch = np.array([3.0], np.float32)
    state, metrics = take_step(state, batch, np.float32(1))
    assert float(metrics["grad_norm"]) == pytest.approx(3.0)
    assert float(state.params["p"]) == pytest.approx(0.1)


def test_the_given_parameters_survive_the_donated_state():
    params = {"p": jnp.float32(5.0)}
    take_step = step.make_train_step(quadratic, PLAIN)
    take_step(step.init_state(params, PLAIN), np.ones(1, np.float32), np.float32(1))
    assert float(params["p"]) == 5.0


@pytest.mark.parametrize("passes", [1, 2])
def test_of_a_frozen_model_the_adapters_alone_are_trained(
    config, params, spread, passes
):
    """No gradient and no optimizer state of the base; the loss falls all the same."""
    adapted = lora.LoraConfig(rank=2, alpha=4.0)
    optimizer = optax.scale_by_adam()
    take_step = step.make_train_step(
        objectives.language_model_objective(config),
        optimizer,
        combine=lambda adapters, base: lora.attach(base, adapters, adapted.scale),
    )
    before = jax.tree.map(np.array, params)
    adapters = lora.init(adapted, params, jax.random.key(0))
    state = step.init_state(adapters, optimizer)
    sizes = {leaf.size for leaf in jax.tree.leaves(adapters)}
    assert {leaf.size for leaf in jax.tree.leaves(state.opt_state)} <= sizes | {1}
    batch = programs.in_passes(spread, passes)
    losses = []
    for _ in range(8):
        state, metrics = take_step(state, batch, np.float32(0.02), params)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 0.1
    jax.tree.map(np.testing.assert_array_equal, params, before)
    changed = [np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(state.params)]
    assert all(changed)

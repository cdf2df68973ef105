"""A mesh computes what one device computes, forward and backward."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from nemojax.models import forward
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout

pytestmark = pytest.mark.usefixtures("quick_compile")


@functools.cache
def program(layout):
    """Log-probs, rewards, and the gradient of a sum that weighs every entry."""

    def loss(config, params, tokens, segments, weights):
        options = {"segment_ids": segments, "layout": layout}
        outputs = (
            forward.token_log_probs(config, params, tokens, **options),
            forward.rewards(config, params, tokens, **options),
        )
        parts = [(a * b).sum() for a, b in zip(outputs, weights, strict=True)]
        return sum(parts), outputs

    gradient = jax.value_and_grad(loss, argnums=1, has_aux=True)
    return jax.jit(gradient, static_argnums=0)


@pytest.fixture(scope="module")
def case():
    """Segments [4, 16] with padding, and random weights of log-probs and rewards."""
    rng = np.random.default_rng(5)
    segments = np.repeat([1, 2, 0], [6, 7, 3])[None].repeat(4, axis=0)
    shapes = [(4, 16), (4, 16, 5)]
    return segments, tuple(rng.normal(size=s).astype(np.float32) for s in shapes)


@pytest.mark.parametrize(
    "axes",
    [{"data": 2}, {"tensor": 2}, {"data": 2, "tensor": 2}],
    ids=lambda axes: "x".join(f"{name}{size}" for name, size in axes.items()),
)
def test_a_mesh_gives_the_values_and_gradients_of_one_device(
    config, params, tokens, case, axes
):
    arguments = (config, params, tokens, *case)
    (_, expected), expected_gradient = program(None)(*arguments)
    (_, found), gradient = program(Layout(meshes.make_mesh(**axes)))(*arguments)
    for one, several in zip(expected, found, strict=True):
        np.testing.assert_allclose(several, one, rtol=1e-4, atol=1e-4)
    for (path, one), several in zip(
        jax.tree_util.tree_leaves_with_path(expected_gradient),
        jax.tree.leaves(gradient),
        strict=True,
    ):
        scale = np.abs(one).max()
        assert scale > 0, path
        np.testing.assert_allclose(
            several / scale, one / scale, atol=2e-5, err_msg=str(path)
        )


def test_a_mesh_gives_the_logits_of_one_device(config, params, tokens, outputs):
    mesh = meshes.make_mesh(data=2, tensor=2)
    logits = jax.jit(forward.logits, static_argnames=("config", "layout"))
    expected, _, _ = outputs(config, params, tokens)
    found = logits(config, params, tokens, layout=Layout(mesh))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("num_heads=3; 1, 3 do", {"num_heads": 3, "num_kv_heads": 3}),
        ("num_kv_heads=1; 1 do", {"num_kv_heads": 1}),
        ("d_ff=81; 1, 3, 9, 27, 81 do", {"d_ff": 81}),
    ],
)
@pytest.mark.parametrize("function", ["logits", "token_log_probs", "rewards"])
def test_sizes_that_tensor_does_not_divide_are_named(
    config, params, tokens, function, name, changes
):
    odd = dataclasses.replace(config, **changes)
    layout = Layout(meshes.make_mesh(tensor=2))
    with pytest.raises(ValueError, match=f"tensor=2 does not divide {name}"):
        getattr(forward, function)(odd, params, tokens, layout=layout)


@pytest.mark.parametrize(
    ("layout", "shape", "message"),
    [
        ({"data": 2, "pipe": 2}, (6, 16), "6 rows .*: use a multiple of 4"),
        ({"tensor": 2}, (4, 15), "15 tokens .*: use a multiple of 2"),
    ],
)
def test_batches_that_do_not_divide_are_named(config, params, layout, shape, message):
    tokens = np.zeros(shape, np.int32)
    layout = Layout(meshes.make_mesh(**layout))
    with pytest.raises(ValueError, match=message):
        forward.token_log_probs(config, params, tokens, layout=layout)

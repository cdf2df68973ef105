"""A pipelined, sharded model is the model: its values and every gradient."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from nemojax.models import forward
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import PIPELINES, Layout
from tests.models import sharded

pytestmark = pytest.mark.usefixtures("quick_compile")


def one_f_one_b(**options):
    return {"pipeline": "1f1b", **options}


@pytest.mark.parametrize(
    ("axes", "options"),
    [
        ((2, 2, 2), {"virtual_stages": 2, "zero": 1, "remat": "full"}),
        pytest.param(
            (1, 4, 2),
            {"virtual_stages": 1, "micro_batches": 8},
            marks=pytest.mark.slow,
        ),
        ((1, 2, 1), {"virtual_stages": 4, "remat": "mlp_preactivation"}),
        ((4, 1, 2), {"zero": 3, "remat": "full", "micro_batches": 2}),
        ((2, 1, 1), {"virtual_stages": 2, "micro_batches": 4}),
        ((2, 2, 2), one_f_one_b(virtual_stages=2, zero=1, remat="selective")),
        ((1, 1, 1), one_f_one_b(micro_batches=4, remat="mlp_preactivation")),
    ],
    ids=str,
)
def test_a_layout_changes_neither_values_nor_gradients(axes, options):
    layout = Layout(meshes.make_mesh(*axes), **options)
    sharded.check(sharded.DEEP, layout, num_attributes=0)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_llama_with_a_reward_head_is_pipelined_too(pipeline):
    mesh = meshes.make_mesh(1, 2, 2)
    sharded.check(sharded.LLAMA, Layout(mesh, virtual_stages=2, pipeline=pipeline))


def test_a_weighted_sum_in_one_pass_is_that_of_the_log_probs():
    """Also its gradient, scaled by what comes after the sum, and the log-probs."""
    params = sharded.random_params(sharded.DEEP)
    tokens, segments, (weights, _) = sharded.case()

    def total(params, pipeline):
        mesh = meshes.make_mesh(1, 2, 2)
        layout = Layout(mesh, micro_batches=4, pipeline=pipeline)
        found, log_probs = forward.weighted_log_probs(
            sharded.DEEP, params, tokens, weights, segment_ids=segments, layout=layout
        )
        return 3.0 * found, log_probs

    program = jax.jit(jax.value_and_grad(total, has_aux=True), static_argnums=1)
    (value, log_probs), gradient = program(params, "1f1b")
    (expected, same), expected_gradient = program(params, "gpipe")
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(value, 3 * (log_probs * weights).sum(), rtol=1e-5)
    np.testing.assert_allclose(log_probs, same, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6 * np.abs(b).max()),
        gradient,
        expected_gradient,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "axes", ["2 4 2", "1 12 2", "1 1 8", "4 1 1", "2 2 4", "1 1 1"]
)
def test_large_meshes_with_all_schedules_change_nothing_either(axes):
    """1, 2 and 4 virtual stages, both schedules, two shapes of model."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.sharded", *axes.split()],
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("V=") == 12

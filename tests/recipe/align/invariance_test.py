"""Whole runs: neither micro-batches, packing nor the mesh decide what is learned."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from nemojax.interop import loading
from nemojax.recipe.align import stage
from nemojax.recipe.align.settings import OBJECTIVES, PREFERENCE
from nemojax.recipe.align.stage import CACHED, IN_STEP
from nemojax.training.stage import Options
from tests.recipe.align import toy

pytestmark = pytest.mark.usefixtures("quick_compile")
EIGHT = {"data": 2, "pipe": 2, "tensor": 2}
changed = functools.partial(dataclasses.replace, toy.WHOLE)
VARIANTS: dict[str, dict] = {
    "micro-batches of 1": {"spec": changed(rows=1)},
    "micro-batches of 2": {"spec": changed(rows=2)},
    "micro-batches of 8": {"spec": changed(rows=8)},
    "two passes": {"spec": changed(passes=2)},
    "a row each": {"pack": False},
    "a row each, micro-batches of 2": {"pack": False, "spec": changed(rows=2)},
    "mesh 2 x 2 x 2": {"spec": changed(**EIGHT)},
    "a row each, four passes": {"pack": False, "spec": changed(passes=4)},
    "mesh 2 x 2 x 2, micro-batches of 1": {"spec": changed(**EIGHT, rows=1)},
    "mesh 2 x 2 x 2, 1F1B, ZeRO-1": {
        "spec": changed(**EIGHT, rows=1, pipeline="1f1b", zero=1)
    },
}

QUICK = ("two passes", "a row each", "mesh 2 x 2 x 2")


def train(folder, tmp_path, objective, reference=CACHED, spec=toy.WHOLE, **how):
    """Parameters after 20 steps, and the metrics of the steps."""
    model = loading.load(folder, spec.layout())
    examples = toy.read(tmp_path / "rows.jsonl", objective, model)
    settings = toy.settings(objective, **how)
    name = f"{spec.devices} {spec.rows} {spec.passes} {reference} {how.get('pack')}"
    trained = stage.train(
        "toy", settings, model, examples, None, tmp_path / name, Options(spec),
        reference_log_probs=reference,
    )  # fmt: skip
    assert len(trained.history) == 20
    return jax.device_get(trained.params), trained.history


def difference(found, expected):
    """The largest of any parameter."""
    return max(
        float(np.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    )


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """objective -> parameters of a run in one piece on one device."""
    found = {}

    def of(objective, **how):
        key = objective, str(how)
        if key not in found:
            tmp = tmp_path_factory.mktemp("whole")
            found[key] = train(folder, tmp, objective, **how)
        return found[key]

    return of


@pytest.mark.parametrize(
    ("objective", "variant"),
    [
        pytest.param(
            objective,
            variant,
            marks=()
            if objective == PREFERENCE and variant in QUICK
            else (pytest.mark.slow,),
        )
        for objective in OBJECTIVES
        for variant in VARIANTS
    ],
)
def test_parameters_are_equal_after_twenty_steps(
    folder, whole, tmp_path, objective, variant
):
    params, history = whole(objective)
    found, _ = train(folder, tmp_path, objective, **VARIANTS[variant])
    start = loading.load(folder).params
    moved = difference(
        {k: v for k, v in params.items() if k in start and k != "reward_head"},
        {k: v for k, v in start.items() if k in params},
    )
    assert moved > 1e-2, "nothing was learned"
    assert difference(found, params) < 1e-5
    assert min(row["loss"] for row in history) < history[0]["loss"]


@pytest.mark.parametrize("passes", [1, 2])
def test_a_reference_in_the_step_is_the_one_on_the_disk(
    folder, whole, tmp_path, passes
):
    params, history = whole(PREFERENCE, preference=toy.RPO)
    found, again = train(
        folder,
        tmp_path,
        PREFERENCE,
        reference=IN_STEP,
        preference=toy.RPO,
        spec=changed(passes=passes),
    )
    assert difference(found, params) < 1e-6
    assert history[0]["log_ratio_gap"] == again[0]["log_ratio_gap"] == 0.0


@pytest.mark.parametrize("pack", [True, False])
def test_at_step_0_the_policy_is_exactly_its_reference(folder, tmp_path, pack):
    _, history = train(folder, tmp_path, PREFERENCE, pack=pack)
    for name in ("log_ratio_gap", "kl_estimate", "accuracy"):
        assert history[0][name] == 0.0


def test_on_a_mesh_it_is_but_for_rounding(folder, tmp_path):
    """The program with gradients may add up in another order than the one without."""
    _, history = train(folder, tmp_path, PREFERENCE, spec=changed(data=2, tensor=2))
    assert history[0]["log_ratio_gap"] == pytest.approx(0.0, abs=5e-6)

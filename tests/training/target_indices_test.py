"""The head that looks at targets alone gives the loss and gradients of all tokens."""

import functools

import jax
import numpy as np
import pytest

from nemojax.data.batching.batches import target_indices
from nemojax.errors import UserError
from nemojax.models import forward
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from nemojax.training import objectives
from nemojax.training.objectives import PreferenceBatch, PreferenceConfig

pytestmark = pytest.mark.usefixtures("quick_compile")
MESHES = {
    "data": ((2, 1, 1), {"zero": 1}),
    "zero 3": ((2, 1, 1), {"zero": 3, "remat": "full", "micro_batches": 2}),
    "tensor": ((1, 1, 2), {}),
    "gpipe": ((1, 2, 1), {"micro_batches": 4}),
    "1f1b": ((1, 2, 2), {"pipeline": "1f1b", "micro_batches": 4}),
    "1f1b on one stage": ((2, 1, 1), {"pipeline": "1f1b", "micro_batches": 2}),
}
OBJECTIVES = {
    "sft": objectives.language_model_objective,
    "dpo": functools.partial(
        objectives.preference_objective,
        loss=PreferenceConfig("dpo", beta=0.5, sft_weight=0.1),
    ),
    "rpo": functools.partial(
        objectives.preference_objective,
        loss=PreferenceConfig("rpo", beta=0.5, eta=0.5),
    ),
}
# The others are slow: each is a program to compile.
QUICK = (("sft", "data"), ("sft", "1f1b"), ("dpo", "gpipe"), ("rpo", "tensor"))


@pytest.fixture(scope="module")
def packed(pack, sequences):
    """Eight sequences in four rows of 20, with padding in each."""
    return pack(sequences, 4, 20)


@pytest.fixture(scope="module")
def evaluated(config, params, packed):
    """(objective, layout, sparse) -> the loss's sum, and its gradient as a tree."""
    policy = {name: leaf for name, leaf in params.items() if name != "reward_head"}

    @functools.cache
    def of(name, layout=None, sparse=False):
        layout = layout or Layout()
        batch = packed.batch
        if sparse:
            batch = batch._replace(target_indices=indices(packed.loss_mask, layout))
        if name != "sft":
            rng = np.random.default_rng(0)
            reference, rewards = rng.normal(size=(2, 8)).astype(np.float32)
            pairs = np.ones(4, np.float32)
            batch = PreferenceBatch(
                batch, packed.sequence_ids, reference, rewards, pairs, pairs
            )
        objective = OBJECTIVES[name](config, layout=layout)
        program = jax.value_and_grad(lambda *values: objective(*values)[0])
        return jax.device_get(jax.jit(program)(policy, batch))

    return of


def indices(loss_mask, layout):
    """As few as the fullest group of rows allows."""
    groups = layout.head_groups(len(loss_mask))
    room = int(loss_mask.reshape(groups, -1).sum(1).max())
    assert room * groups < 0.75 * loss_mask.size
    return target_indices(loss_mask, groups, room)


@pytest.mark.parametrize(
    ("objective", "mesh"),
    [
        pytest.param(
            objective,
            mesh,
            marks=() if (objective, mesh) in QUICK else (pytest.mark.slow,),
        )
        for objective in OBJECTIVES
        for mesh in MESHES
    ],
)
def test_targets_alone_give_the_loss_and_the_gradients(evaluated, objective, mesh):
    axes, options = MESHES[mesh]
    layout = Layout(meshes.make_mesh(*axes), **options)
    value, gradient = evaluated(objective, layout, sparse=True)
    expected, expected_gradient = evaluated(objective)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for (path, ours), one in zip(
        jax.tree_util.tree_leaves_with_path(gradient),
        jax.tree.leaves(expected_gradient),
        strict=True,
    ):
        largest = np.abs(one).max()
        assert largest > 0, path
        np.testing.assert_allclose(ours, one, atol=2e-6 * largest, err_msg=str(path))


def test_log_probs_are_0_where_nothing_points(config, params, packed):
    text = packed.batch
    found = {}
    for name, points in (("all", None), ("some", indices(text.loss_mask, Layout()))):
        found[name] = forward.token_log_probs(
            config, params, text.tokens, positions=text.positions,
            segment_ids=text.segment_ids, target_indices=points,
        )  # fmt: skip
    pointed = np.zeros(text.tokens.size, bool)
    pointed[points] = True
    expected = np.where(pointed.reshape(text.tokens.shape), found["all"], 0)
    np.testing.assert_allclose(found["some"], expected, rtol=1e-6, atol=1e-6)
    assert 0 < np.count_nonzero(found["some"]) < np.count_nonzero(found["all"])


def test_indices_of_another_number_of_groups_are_refused(config, params, packed):
    text = packed.batch
    layout = Layout(meshes.make_mesh(2))
    with pytest.raises(UserError, match="of 1 groups of rows: this layout has 2"):
        forward.token_log_probs(
            config, params, text.tokens, segment_ids=text.segment_ids,
            target_indices=indices(text.loss_mask, Layout()), layout=layout,
        )  # fmt: skip

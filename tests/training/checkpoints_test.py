"""What is saved comes back bit for bit; what was not saved does not count."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.errors import UserError
from nemojax.parallel import fingerprint
from nemojax.parallel import mesh as meshes
from nemojax.training import checkpoints
from tests.training import toy_run


def tree(seed=0):
    """Two dtypes and a nested shape."""
    rng = np.random.default_rng(seed)
    return {
        "mlp": {"up": jnp.asarray(rng.normal(size=(1, 4, 6)), jnp.float32)},
        "norm": jnp.asarray(rng.normal(size=3), jnp.bfloat16),
        "step": jnp.int32(seed),
    }


def assert_equal(found, expected):
    assert fingerprint.parameters_sha256(found) == fingerprint.parameters_sha256(
        expected
    )


def test_parameters_come_back_and_replace_older_ones(tmp_path):
    folder = tmp_path / "params"
    for seed in (1, 2):
        checkpoints.save_params(folder, tree(seed))
        assert_equal(checkpoints.load_params(folder, tree(0)), tree(seed))


def test_parameters_come_back_on_the_mesh_asked_for(tmp_path):
    """Saved by one device, read by four that share dim 2."""
    checkpoints.save_params(tmp_path / "params", tree(1))
    mesh = meshes.make_mesh(data=2, tensor=2)
    like = jax.tree.map(
        lambda leaf: jax.device_put(leaf, meshes.sharding(mesh)), tree(0)
    )
    split = meshes.sharding(mesh, None, None, "tensor")
    like["mlp"]["up"] = jax.device_put(like["mlp"]["up"], split)
    found = checkpoints.load_params(tmp_path / "params", like)
    assert found["mlp"]["up"].sharding == split
    assert found["mlp"]["up"].addressable_shards[0].data.shape == (1, 4, 3)
    assert_equal(found, tree(1))


def saved_steps(folder, *steps, **options):
    """Saves states under steps, in a run of its own."""
    saved = checkpoints.Checkpoints(folder, **options)
    for step in steps:
        saved.save(step, tree(step))
    saved.close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_checkpoint_wins(tmp_path):
    folder = tmp_path / "checkpoints"
    saved = checkpoints.Checkpoints(folder)
    assert saved.steps() == [] and saved.restore(tree()) is None
    saved.close()
    saved_steps(folder, 3, 6)
    again = checkpoints.Checkpoints(folder)
    assert again.steps() == [3, 6]
    assert_equal(again.restore(tree(0)), tree(6))
    again.close()


@pytest.mark.parametrize(("options", "kept"), [({"keep": 1}, [4]), ({}, [3, 4])])
def test_old_checkpoints_go(tmp_path, options, kept):
    saved_steps(tmp_path / "checkpoints", 1, 2, 3, 4, **options)
    assert names(tmp_path / "checkpoints") == [str(step) for step in kept]


@pytest.mark.parametrize("ending", [".orbax-checkpoint-tmp", ""])
def test_a_save_that_was_killed_does_not_count_and_is_replaced(tmp_path, ending):
    """Before it is renamed, a checkpoint's folder has an ending of Orbax's; and before
    the checksums are written there are none."""
    folder = tmp_path / "checkpoints"
    saved_steps(folder, 3)
    shutil.copytree(folder / "3", folder / f"6{ending}")
    (folder / f"6{ending}" / "manifest.0.json").unlink()
    again = checkpoints.Checkpoints(folder)
    assert again.steps() == [3]
    assert_equal(again.restore(tree(0)), tree(3))
    again.save(6, tree(6))
    again.close()
    assert names(folder) == ["3", "6"]


def test_an_empty_folder_with_a_steps_name_is_no_checkpoint(tmp_path, capsys):
    saved_steps(tmp_path, 3)
    (tmp_path / "9").mkdir()
    again = checkpoints.Checkpoints(tmp_path)
    assert_equal(again.restore(tree(0)), tree(3))
    again.close()
    assert f"{tmp_path}/9 has no checksums" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t | {"norm": t["norm"].astype(jnp.float32)},
            r"norm is bfloat16\[3\] there and float32\[3\] here",
        ),
        (
            lambda t: t | {"norm": t["norm"][:2]},
            r"bfloat16\[3\] there and bfloat16\[2\]",
        ),
        (lambda t: t | {"more": t["norm"]}, "more is nothing there"),
        (
            lambda t: {"mlp": t["mlp"], "norm": t["norm"]},
            "step is int32.* nothing here",
        ),
    ],
)
def test_the_state_of_another_model_is_refused(tmp_path, change, message):
    """Orbax would read bfloat16 into float32, and leave out what is not asked for."""
    saved_steps(tmp_path, 3)
    again = checkpoints.Checkpoints(tmp_path)
    with pytest.raises(ValueError, match=f"3 is of another model.*{message}"):
        again.restore(change(tree(0)))
    again.close()


def test_the_state_saved_is_that_of_the_call(tmp_path):
    """Saving goes on in the background, while the next steps overwrite the state."""
    state = {"w": jnp.zeros((1000, 1000))}
    add = jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)
    saved = checkpoints.Checkpoints(tmp_path)
    state = add(state)
    saved.save(1, state)
    for _ in range(20):
        state = add(state)
    assert_equal(saved.restore(state), {"w": np.ones((1000, 1000), np.float32)})
    saved.close()


def test_equal_bits_have_equal_hashes_wherever_they_live():
    mesh = meshes.make_mesh(tensor=2)
    placed = tree(1)
    split = meshes.sharding(mesh, None, "tensor")
    placed["mlp"]["up"] = jax.device_put(placed["mlp"]["up"], split)
    assert_equal(placed, jax.tree.map(np.asarray, tree(1)))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t | {"step": t["step"] + 1},
        lambda t: t | {"norm": t["norm"].at[1].set(-t["norm"][1])},
        lambda t: t | {"norm": t["norm"].astype(jnp.float16)},
        lambda t: t | {"mlp": {"up": t["mlp"]["up"].reshape(1, 6, 4)}},
        lambda t: t | {"mlp": {"down": t["mlp"]["up"]}},
        lambda t: {name: t[name] for name in ("mlp", "norm")},
    ],
    ids=["integer", "sign", "dtype", "shape", "name", "missing"],
)
def test_any_change_changes_the_hash(change):
    before = fingerprint.parameters_sha256(tree(1))
    assert fingerprint.parameters_sha256(change(tree(1))) != before


def test_a_bit_changes_the_hash():
    """-0.0 and 0.0 are equal numbers, but not equal bits."""
    hashes = {fingerprint.parameters_sha256([jnp.float32(x)]) for x in (0.0, -0.0)}
    assert len(hashes) == 2


def test_a_renamed_step_is_refused_and_no_save_waits_for_it(tmp_path):
    """Orbax would leave out each step before the one that its folder names."""
    folder = tmp_path / "run" / "checkpoints"
    toy_run.train(tmp_path / "run", toy_run.Batches())
    (folder / "6").rename(folder / "11")
    with pytest.raises(UserError, match=r"11 holds the state after step 6: rename it"):
        toy_run.train(tmp_path / "run", toy_run.Batches())
    run = checkpoints.Checkpoints(folder)
    with pytest.raises(
        UserError, match=r"checkpoint 9 cannot be saved: .*later one: 11"
    ):
        run.save(9, tree(9))
    run.close()

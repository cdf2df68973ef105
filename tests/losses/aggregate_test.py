import chex
import jax.numpy as jnp
import pytest

from nemojax.losses import aggregate

VECTORS = ("helpsteer_aggregate",)


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("nemotron4_340b", "nemotron4_340b_reward"),
        ("llama3_70b", "llama3_70b_steerlm_rm"),
    ],
)
def test_gives_the_rewards_of_the_vectors(vector, model, key):
    rewards_N = aggregate.aggregate(
        jnp.array(vector["inputs"]["attributes"]), aggregate.ATTRIBUTE_WEIGHTS[model]
    )
    chex.assert_trees_all_close(
        rewards_N, jnp.array(vector["expected"][key]), rtol=2e-5
    )


def test_names_both_counts_when_they_differ():
    with pytest.raises(ValueError, match="2 weights for 9 attributes"):
        aggregate.aggregate(jnp.zeros((1, 9)), (0.5, 0.5))

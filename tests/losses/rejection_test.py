import jax.numpy as jnp
import numpy as np
import pytest

from nemojax import losses


@pytest.mark.vectors("rejection_sampling")
def test_selects_and_weighs_as_the_vectors(vector):
    inputs, expected = vector["inputs"], vector["expected"]
    chosen = losses.select_best(
        inputs["prompt_ids"], inputs["rewards"], vector["params"]["top_n_rollouts"]
    )
    # The vectors are in the order of the prompts' numbers.
    prompts = np.array(inputs["prompt_ids"])[chosen]
    chosen = chosen[np.argsort(prompts, kind="stable")]
    assert chosen.tolist() == expected["selected_indices"]
    loss_sum, weight, _ = losses.reduce(
        losses.language_model(
            jnp.array(inputs["logprobs"])[chosen], jnp.array(inputs["mask"])[chosen]
        )
    )
    assert loss_sum / weight == pytest.approx(expected["loss"], rel=2e-5)


def test_a_prompt_with_few_responses_keeps_all_and_ties_keep_the_later():
    found = losses.select_best(["b", "a", "b", "b"], [1.0, 0.0, 1.0, 0.5], top=2)
    assert found.tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], [1.0], 0), "top=0 must be positive"),
        ((["a"], [1.0, 2.0]), "1 prompts for 2 rewards"),
        ((["a", "a"], [1.0, float("nan")]), "reward 1 is NaN"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        losses.select_best(*arguments)

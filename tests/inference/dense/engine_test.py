"""The engine answers each request as if it were alone, in the order asked."""

import dataclasses

import numpy as np
import pytest

from nemojax.inference.dense.engine import Engine
from nemojax.parallel import mesh as meshes

pytestmark = pytest.mark.usefixtures("quick_compile")

STOP = 3


@pytest.fixture(scope="module")
def engine(config, params):
    return Engine(
        config,
        params,
        meshes.make_mesh(),
        STOP,
        batch_size=4,
        slot_multiple=12,
        max_prompt_tokens=10,
        max_new_tokens=8,
    )


@pytest.fixture(scope="module")
def alone(engine, prompts):
    """Each request in a call of its own; seed 100 + its index."""
    return [
        engine.sample([prompt], temperature=1.0, seeds=[100 + index])[0]
        for index, prompt in enumerate(prompts)
    ]


def assert_equal(found, expected):
    """Equal tokens and reasons; log-probs up to rounding."""
    assert [s.tokens for s in found] == [s.tokens for s in expected]
    assert [s.finish_reason for s in found] == [s.finish_reason for s in expected]
    np.testing.assert_allclose(
        [s.log_prob for s in found], [s.log_prob for s in expected], atol=1e-4
    )


def test_requests_come_back_in_order_whatever_their_neighbours(engine, prompts, alone):
    order = np.random.default_rng(0).permutation(len(prompts)).tolist()
    found = engine.sample(
        [prompts[i] for i in order], temperature=1.0, seeds=[100 + i for i in order]
    )
    assert_equal(found, [alone[i] for i in order])
    assert len({tuple(sample.tokens) for sample in found}) == len(prompts)


@pytest.mark.parametrize("changes", [{"batch_size": 5}, {"slot_multiple": 16}])
def test_batch_shapes_change_nothing(engine, prompts, alone, changes):
    other = dataclasses.replace(engine, **changes)
    seeds = [100 + index for index in range(len(prompts))]
    assert_equal(other.sample(prompts, temperature=1.0, seeds=seeds), alone)


def test_a_mesh_changes_nothing(engine, prompts, alone):
    other = dataclasses.replace(engine, mesh=meshes.make_mesh(data=2))
    seeds = [100 + index for index in range(len(prompts))]
    assert_equal(other.sample(prompts, temperature=1.0, seeds=seeds), alone)


def test_a_stop_token_ends_a_sample_and_is_no_part_of_it(engine, prompts, log_softmax):
    """Its log-prob counts, though: the sum is that of all that was sampled."""
    requests = prompts * 4
    found = engine.sample(requests, temperature=1.0, seeds=range(len(requests)))
    reasons = {sample.finish_reason for sample in found}
    assert reasons == {"stop", "length"}
    for prompt, sample in zip(requests, found, strict=True):
        assert STOP not in sample.tokens
        stopped = sample.finish_reason == "stop"
        assert stopped or len(sample.tokens) == 8
        sampled = sample.tokens + [STOP] * stopped
        after = log_softmax(prompt + sampled)[len(prompt) - 1 : -1]
        total = after[np.arange(len(sampled)), sampled].sum()
        np.testing.assert_allclose(sample.log_prob, total, atol=1e-3)


def test_seeds_beyond_32_bits_are_taken_modulo(engine, prompts, alone):
    found = engine.sample(prompts[:1], temperature=1.0, seeds=[2**32 + 100])
    assert_equal(found, alone[:1])


def test_no_request_gives_no_sample(engine):
    assert engine.sample([], temperature=1.0, seeds=[]) == []


@pytest.mark.parametrize("length", [0, 11])
def test_a_prompt_that_does_not_fit_is_refused_by_index(engine, prompts, length):
    requests = [prompts[0], [1] * length]
    with pytest.raises(
        ValueError, match=f"prompt 1 has {length} tokens, allowed are 1 to 10"
    ):
        engine.sample(requests, temperature=0.0, seeds=[0, 0])


def test_each_prompt_needs_a_seed(engine, prompts):
    with pytest.raises(ValueError, match="2 prompts, but 1 seeds"):
        engine.sample(prompts[:2], temperature=0.0, seeds=[0])

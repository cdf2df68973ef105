"""A batch scores each sequence as if it were alone."""

import functools

import jax
import numpy as np
import pytest

from nemojax.inference.scoring import scoring
from nemojax.models import forward
from nemojax.parallel import mesh as meshes

pytestmark = pytest.mark.usefixtures("quick_compile")

LENGTH = 24


@pytest.fixture(scope="module")
def sequences():
    """30 sequences of 2 to 24 tokens with random masks: several batches' worth."""
    rng = np.random.default_rng(2)
    found = []
    for size in rng.integers(2, LENGTH + 1, 30).tolist():
        mask = rng.integers(0, 2, size).tolist()
        mask[0] = 0
        found.append((rng.integers(0, 61, size).tolist(), mask))
    return found


@pytest.fixture(scope="module")
def one_by_one(config, params, sequences):
    """(rewards [30, 5], masked log-prob sums [30]), each from a row of its own."""
    rows = np.zeros((len(sequences), LENGTH), np.int32)
    masks = np.zeros((len(sequences), LENGTH), np.float32)
    for index, (tokens, mask) in enumerate(sequences):
        rows[index, : len(tokens)], masks[index, : len(mask)] = tokens, mask
    forwards = [
        jax.jit(functools.partial(function, config))
        for function in (forward.rewards, forward.token_log_probs)
    ]
    rewards, log_probs = (np.asarray(function(params, rows)) for function in forwards)
    last = [len(tokens) - 1 for tokens, _ in sequences]
    return rewards[np.arange(len(last)), last], (log_probs * masks).sum(1)


def test_a_prompt_s_log_prob_is_no_part_of_a_response_s(config, params, sequences):
    """A mask of zeros gives 0; the sum over two masks is that of both."""
    tokens = sequences[0][0]
    size = len(tokens)
    first = [0] + [1] * (size // 2) + [0] * (size - size // 2 - 1)
    second = [0] + [1 - bit for bit in first[1:]]
    masks = [[0] * size, first, second, [0] + [1] * (size - 1)]
    mesh = meshes.make_mesh()
    buckets = scoring.choose_buckets(mesh, LENGTH)
    masked = [(tokens, mask) for mask in masks]
    none, one, other, both = scoring.begin_log_probs(
        config, params, masked, mesh=mesh, buckets=buckets
    ).result()
    assert none == 0 > max(one, other)
    np.testing.assert_allclose(one + other, both, rtol=1e-5)


BEGIN = {"rewards": scoring.begin_rewards, "log_probs": scoring.begin_log_probs}


@pytest.mark.parametrize("kind", BEGIN)
@pytest.mark.parametrize("data", [1, 2])
def test_padded_scores_are_those_of_single_rows(
    config, params, sequences, one_by_one, kind, data
):
    mesh = meshes.make_mesh(data=data)
    buckets = scoring.choose_buckets(mesh, LENGTH, batch_tokens=70)
    pending = BEGIN[kind](config, params, sequences, mesh=mesh, buckets=buckets)
    expected = one_by_one[list(BEGIN).index(kind)]
    np.testing.assert_allclose(pending.result(), expected, atol=1e-3)


@pytest.mark.parametrize("kind", BEGIN)
def test_padded_scores_do_not_depend_on_the_others(config, params, sequences, kind):
    """Nor on the shapes; nothing gives nothing."""
    mesh = meshes.make_mesh()

    def scores(chosen, tokens):
        buckets = scoring.choose_buckets(mesh, LENGTH, tokens)
        return BEGIN[kind](config, params, chosen, mesh=mesh, buckets=buckets).result()

    some = [7, 2, 19, 11]
    alone = scores([sequences[index] for index in some], 24)
    np.testing.assert_allclose(alone, scores(sequences, 70)[some], atol=1e-4)
    assert scores([], 24).shape == (0,)


@pytest.mark.parametrize("kind", BEGIN)
def test_what_is_too_long_for_a_bucket_is_refused(config, params, kind):
    mesh = meshes.make_mesh()
    buckets = scoring.choose_buckets(mesh, 4)
    with pytest.raises(ValueError, match="sequence 1 has 5 tokens"):
        BEGIN[kind](
            config,
            params,
            [([1, 2], [0, 1]), ([1] * 5, [0] * 5)],
            mesh=mesh,
            buckets=buckets,
        )


def test_buckets_divide_over_the_mesh():
    buckets = scoring.choose_buckets(meshes.make_mesh(data=2, tensor=3), 100)
    assert all(length % 24 == 0 for length in buckets.lengths)
    assert all(buckets.rows(length) % 2 == 0 for length in buckets.lengths)


@pytest.mark.parametrize("kind", ["rewards", "log_probs"])
def test_a_cpu_s_devices_never_hold_two_programs(config, params, sequences, kind):
    """Independent programs with collectives can take all threads from each other."""
    mesh = meshes.make_mesh(data=2)
    buckets = scoring.choose_buckets(mesh, LENGTH, batch_tokens=64)
    begin = getattr(scoring, f"begin_{kind}")
    found = begin(config, params, sequences, mesh=mesh, buckets=buckets)
    assert len(found.parts) > 2
    assert all(values.is_ready() for _, values in found.parts)

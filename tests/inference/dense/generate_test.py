"""Sampling with a cache is sampling from the model."""

import jax
import numpy as np
import pytest
import scipy.stats

from nemojax.inference.dense import generate
from nemojax.models import forward
from nemojax.models.config import ModelConfig
from nemojax.parallel import mesh as meshes

pytestmark = pytest.mark.usefixtures("quick_compile")

NEVER = 10_000  # a stop id that is no token
NEW = 8


full_logits = jax.jit(forward.logits, static_argnums=0)


def padded(prompts, slots):
    """Left-padded int32 [B, slots]; the padding holds a token that could be read."""
    rows = np.full((len(prompts), slots), 5, np.int32)
    for row, prompt in zip(rows, prompts, strict=True):
        row[slots - len(prompt) :] = prompt
    return rows, np.array([len(prompt) for prompt in prompts], np.int32)


def sample(config, params, prompts, *, slots=12, seeds=None, **options):
    """`generate` on prompts, with defaults; arrays as NumPy."""
    tokens, lengths = padded(prompts, slots)
    if seeds is None:
        seeds = np.arange(len(prompts))
    settings = {"max_new_tokens": NEW, "temperature": 1.0, "stop_id": NEVER, **options}
    seeds = np.asarray(seeds, np.uint32)
    found = generate.generate(config, params, tokens, lengths, seeds, **settings)
    return generate.Samples(*(np.asarray(part) for part in found))


def test_greedy_tokens_are_the_argmax_of_the_full_forward(
    config, params, prompts, log_softmax
):
    """Step by step: each token is the argmax after the prompt and the tokens before."""
    found = sample(config, params, prompts, temperature=0.0)
    for prompt, tokens in zip(prompts, found.tokens.tolist(), strict=True):
        after = log_softmax(prompt + tokens)[len(prompt) - 1 : -1]
        assert tokens == after.argmax(-1).tolist()
    assert len(np.unique(found.tokens)) > 10


@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
def test_log_probs_are_those_of_the_model_at_temperature_one(
    config, params, prompts, temperature
):
    found = sample(config, params, prompts, temperature=temperature)
    slots = 24
    rows = np.zeros((len(prompts), slots), np.int32)
    for row, prompt, tokens in zip(rows, prompts, found.tokens, strict=True):
        row[: len(prompt) + NEW] = [*prompt, *tokens]
    expected = np.asarray(jax.jit(forward.token_log_probs, static_argnums=0)(
        config, params, rows
    ))  # fmt: skip
    for row, prompt, log_probs in zip(expected, prompts, found.log_probs, strict=True):
        start = len(prompt)
        np.testing.assert_allclose(log_probs, row[start : start + NEW], atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_amount_of_left_padding_changes_nothing(
    config, params, prompts, temperature
):
    found = [
        sample(config, params, prompts, slots=slots, temperature=temperature)
        for slots in (12, 21)
    ]
    np.testing.assert_array_equal(found[0].tokens, found[1].tokens)
    np.testing.assert_allclose(found[0].log_probs, found[1].log_probs, atol=1e-4)


def test_a_row_depends_on_its_own_prompt_and_seed_alone(config, params, prompts):
    """Other neighbours, another order, another number of rows, two data shards."""
    seeds = np.arange(8) + 70
    whole = sample(config, params, prompts, seeds=seeds).tokens
    order = [6, 1, 4, 7]
    some = sample(
        config, params, [prompts[i] for i in order], seeds=seeds[order]
    ).tokens
    np.testing.assert_array_equal(some, whole[order])
    mesh = meshes.make_mesh(data=2)
    split = sample(config, params, prompts, seeds=seeds, mesh=mesh).tokens
    np.testing.assert_array_equal(split, whole)


def test_a_seed_is_the_only_source_of_chance(config, params, prompts):
    """Equal rows are equal, and rows that differ in the seed differ."""
    found = sample(config, params, [prompts[0]] * 8, seeds=[3, 3, 4, 5, 6, 7, 8, 3])
    rows = [tuple(row) for row in found.tokens.tolist()]
    assert rows[0] == rows[1] == rows[7]
    assert len(set(rows)) == 6


def test_a_row_ends_at_its_first_stop_token(config, params, prompts):
    free = sample(config, params, prompts)
    stop = int(free.tokens[2, 3])  # so that at least row 2 stops early
    found = sample(config, params, prompts, stop_id=stop)
    for row in range(len(prompts)):
        (hits,) = np.nonzero(free.tokens[row] == stop)
        length = hits[0] + 1 if len(hits) else NEW
        assert found.lengths[row] == length
        kept, rest = np.split(found.tokens[row], [length])
        np.testing.assert_array_equal(kept, free.tokens[row, :length])
        assert (rest == stop).all()
        np.testing.assert_allclose(
            found.log_probs[row, :length], free.log_probs[row, :length], atol=1e-5
        )
        assert not found.log_probs[row, length:].any()
    assert found.lengths.min() < NEW == free.lengths.min()


def test_the_shards_of_a_mesh_stop_on_their_own(config, params, prompts):
    """One data shard is done after a token, the other one goes on to the limit."""
    first = sample(config, params, prompts, temperature=0.0)
    stop = int(first.tokens[0, 0])
    rows = [prompts[0]] * 4 + prompts[1:5]
    expected = sample(config, params, rows, temperature=0.0, stop_id=stop)
    mesh = meshes.make_mesh(data=2)
    found = sample(config, params, rows, temperature=0.0, stop_id=stop, mesh=mesh)
    for one, two in zip(expected, found, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-5)
    assert expected.lengths[:4].max() == 1 < expected.lengths[4:].max()


def test_a_split_over_tensor_is_refused(config, params, prompts):
    mesh = meshes.make_mesh(tensor=2)
    with pytest.raises(ValueError, match="needs tensor=1, got 2"):
        sample(config, params, prompts, mesh=mesh)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_samples_follow_the_softmax_at_a_temperature(temperature):
    """Chi-square of 4096 pairs of tokens against p(a) p(b | a), vocabulary of 5."""
    toy = ModelConfig(
        vocab_size=5,
        num_layers=1,
        d_model=8,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        d_ff=8,
        init_std=0.25,
        compute_dtype="float32",
    )
    params = jax.jit(forward.init, static_argnums=0)(toy, jax.random.key(2))
    count = 4096
    found = sample(
        toy,
        params,
        [[1, 2]] * count,
        slots=2,
        max_new_tokens=2,
        temperature=temperature,
    )
    rows = np.array([[1, 2, token] for token in range(5)])
    logits = np.asarray(full_logits(toy, params, rows)) / temperature
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = (softmax[0, 1][:, None] * softmax[:, 2]).ravel().astype(np.float64)
    expected *= count / expected.sum()
    cells = np.bincount(found.tokens[:, 0] * 5 + found.tokens[:, 1], minlength=25)
    assert expected.min() > 5
    assert scipy.stats.chisquare(cells, expected).pvalue > 1e-3
    uniform = scipy.stats.chisquare(cells)  # the test can tell distributions apart
    assert uniform.pvalue < 1e-6


def test_choose_inverts_the_cumulative_distribution():
    """Evenly spaced numbers hit each token in proportion to its probability."""
    probabilities = np.array([0.1, 0.0, 0.4, 0.25, 0.25])
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities).astype(np.float32) - 40.0
    logits = np.where(np.isfinite(logits), logits, -1e30)
    numbers = (np.arange(1000) + 0.5) / 1000
    chosen = generate.choose(
        np.tile(logits, (1000, 1)), numbers.astype(np.float32), np.float32(1.0)
    )
    counts = np.bincount(chosen, minlength=5)
    np.testing.assert_allclose(counts, probabilities * 1000, atol=1)
    assert counts[1] == 0


@pytest.mark.parametrize("number", [0.0, 1 - 2**-24])
def test_choose_never_takes_an_impossible_token(number):
    """Neither the first nor the last token, at the ends of the unit interval."""
    logits = np.array([[-1e30, 0.0, 0.0, -1e30]], np.float32)
    numbers = np.array([number], np.float32)
    assert int(generate.choose(logits, numbers, np.float32(1.0))[0]) in (1, 2)

"""The next token is a draw of the filtered distribution."""

import dataclasses

import jax
import numpy as np
import pytest
import scipy.stats

from nemojax.inference.engine import sampling
from nemojax.inference.engine.sampling import Sampling

V, ROWS = 12, 4000
LOGITS = np.random.default_rng(0).normal(size=V).astype(np.float32) * 2
SEEN = np.arange(V) % 3 == 0

choose = jax.jit(sampling.choose)


def expected(how: Sampling) -> np.ndarray:
    """Probabilities [V] in float64, one filter after the other."""
    logits = LOGITS.astype(np.float64)
    penalty = how.repetition_penalty
    penalised = np.where(logits > 0, logits / penalty, logits * penalty)
    logits = np.where(SEEN, penalised, logits) / how.temperature
    p = np.exp(logits - logits.max())
    order = np.argsort(-p)
    if how.top_k:
        p[order[how.top_k :]] = 0
    before = np.cumsum(p[order]) / p.sum()
    p[order[1:][before[:-1] >= how.top_p]] = 0
    p[p < how.min_p * p.max()] = 0
    return p / p.sum()


def draw(how: Sampling, logits=LOGITS, rows=ROWS) -> np.ndarray:
    """Of so many rows that differ in their seeds."""
    each = [dataclasses.replace(how, seed=how.seed + row) for row in range(rows)]
    shape = (rows, len(logits))
    seen = np.broadcast_to(SEEN[: len(logits)], shape)
    index = np.zeros(rows, np.int32)
    return np.asarray(
        choose(np.broadcast_to(logits, shape), seen, index, sampling.settings(each))
    )


@pytest.mark.parametrize(
    "how",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(temperature=2.5, repetition_penalty=1.7),
        Sampling(top_k=3),
        Sampling(top_k=1),
        Sampling(top_p=0.8),
        Sampling(top_p=1e-6),
        Sampling(min_p=0.2),
        Sampling(temperature=1.5, top_k=9, top_p=0.9, min_p=0.05, seed=10**12),
    ],
    ids=str,
)
def test_draws_follow_the_filtered_distribution(how):
    wanted = expected(how)
    counts = np.bincount(draw(how), minlength=V)
    assert not counts[wanted == 0].any()
    common = wanted * ROWS >= 5
    rest = [counts[~common].sum(), wanted[~common].sum() * ROWS]
    found = np.append(counts[common], rest[0])
    model = np.append(wanted[common] * ROWS, max(rest[1], 1e-9))
    keep = model >= 1e-6
    if keep.sum() > 1:
        assert (
            scipy.stats.chisquare(found[keep], model[keep], sum_check=False)[1] > 1e-3
        )


def test_temperature_zero_is_the_likeliest_after_the_penalty():
    how = Sampling(temperature=0.0, repetition_penalty=50.0, top_p=0.1)
    penalised = np.where(LOGITS > 0, LOGITS / 50, LOGITS * 50)
    assert set(draw(how, rows=3)) == {np.where(SEEN, penalised, LOGITS).argmax()}


@pytest.mark.parametrize("how", [Sampling(top_k=1), Sampling(top_p=1e-6)], ids=str)
def test_one_token_that_is_left_is_taken(how):
    logits = np.random.default_rng(2).normal(size=(ROWS, V)).astype(np.float32)
    each = [dataclasses.replace(how, temperature=0.3 + k / 999) for k in range(ROWS)]
    index, seen = np.zeros(ROWS, np.int32), np.zeros((ROWS, V), bool)
    found = np.asarray(choose(logits, seen, index, sampling.settings(each)))
    np.testing.assert_array_equal(found, logits.argmax(-1))


def test_a_row_does_not_depend_on_the_others():
    """Also where another row needs the sorting that this one does not."""
    alone = draw(Sampling(temperature=1.3), rows=2)
    logits = np.broadcast_to(LOGITS, (2, V))
    mixed = sampling.settings([Sampling(temperature=1.3), Sampling(top_k=2, seed=5)])
    seen = np.broadcast_to(SEEN, (2, V))
    both = np.asarray(choose(logits, seen, np.zeros(2, np.int32), mixed))
    assert both[0] == alone[0]


def test_the_number_of_the_token_makes_another_draw():
    index = np.arange(ROWS, dtype=np.int32)
    logits = np.broadcast_to(LOGITS, (ROWS, V))
    same = sampling.settings([Sampling(seed=3)] * ROWS)
    found = np.asarray(choose(logits, np.zeros((ROWS, V), bool), index, same))
    wanted = expected(Sampling(repetition_penalty=1.0)) * ROWS
    assert scipy.stats.chisquare(np.bincount(found, minlength=V), wanted)[1] > 1e-3


def test_no_rounding_leads_to_a_filtered_token():
    """Most of a large vocabulary is filtered; sums of it round differently."""
    logits = np.random.default_rng(1).normal(size=50_000).astype(np.float32)
    logits[-1] = -50.0
    index = np.zeros(64, np.int32)
    seeds = [Sampling(top_k=5, seed=seed) for seed in range(64)]
    rows = np.broadcast_to(logits, (64, len(logits)))
    seen = np.zeros(rows.shape, bool)
    found = np.asarray(choose(rows, seen, index, sampling.settings(seeds)))
    assert set(found) <= set(np.argsort(-logits)[:5])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("max_tokens", 0),
        ("stop_ids", tuple(range(9))),
    ],
)
def test_what_leaves_no_distribution_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"^{field} is"):
        Sampling(**{field: value})


def test_an_answer_ends_at_a_stop_token_or_its_length():
    how = sampling.settings([Sampling(stop_ids=(4, 7)), Sampling(max_tokens=3)] * 2)
    token, count = np.array([7, 7, 5, 5]), np.array([1, 1, 1, 3])
    assert sampling.ends(token, count, how).tolist() == [True, False, False, True]


def test_what_a_neighbour_filters_out_changes_no_other_row():
    """Top-p of one row sorts all: rounded sums may not cut the end off the others."""
    tokens = 32_000
    logits = np.random.default_rng(0).normal(size=tokens).astype(np.float32) * 3
    plain = [Sampling(temperature=2.0, seed=seed) for seed in range(300)]

    def drawn(rows):
        shape = (len(rows), tokens)
        return choose(
            np.broadcast_to(logits, shape),
            np.zeros(shape, bool),
            np.zeros(len(rows), np.int32),
            sampling.settings(rows),
        )

    beside = [*plain[:-1], Sampling(top_p=0.9)]
    np.testing.assert_array_equal(drawn(plain)[:-1], drawn(beside)[:-1])

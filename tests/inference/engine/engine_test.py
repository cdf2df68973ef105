"""Continuous batching answers each request as if it were alone."""

import dataclasses
import itertools
import random

import jax
import numpy as np
import pytest

from nemojax.inference.engine import outputs, sampling
from nemojax.inference.engine.config import EngineConfig
from nemojax.inference.engine.engine import Engine
from nemojax.inference.engine.sampling import Sampling
from nemojax.models import forward
from nemojax.parallel import mesh as meshes

pytestmark = pytest.mark.usefixtures("quick_compile")

# So small that prompts take pieces, texts take blocks and tiles, and requests wait.
CONFIG = EngineConfig(
    slots=4, blocks=40, block_size=4, max_length=48, prefill_slots=2,
    chunk=6, tile=8,
    steps=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def engine(config, params):
    """One engine for all: each test leaves it empty."""
    return Engine(config, params, meshes.make_mesh(), CONFIG)


def finish(engine, deltas=()):
    """Everything that is still to come: {request: (tokens, log_probs, finish)}."""
    found = {}
    deltas = list(deltas)
    while engine.busy:
        deltas += engine.step()
    for delta in deltas:
        tokens, log_probs, _ = found.get(delta.request, ([], [], None))
        tokens = tokens + delta.new.tokens
        log_probs = log_probs + delta.new.log_probs
        found[delta.request] = tokens, log_probs, delta.finish_reason
    assert engine.load.running == engine.load.waiting == 0
    assert engine.load.free_blocks == engine.load.blocks
    return found


def answer(engine, prompt, how):
    (number,) = engine.submit(prompt, how)
    return finish(engine)[number]


HOWS = [
    Sampling(temperature=0.0, max_tokens=20),
    Sampling(seed=7, max_tokens=13),
    Sampling(temperature=0.7, top_k=9, top_p=0.9, seed=8, max_tokens=17),
    Sampling(temperature=0.0, repetition_penalty=1.5, max_tokens=20),
    Sampling(seed=9, max_tokens=1),
]


def requests(prompts):
    """Every prompt, every way."""
    long = list(itertools.chain(*prompts))[:28]
    return [(prompt, how) for how in HOWS for prompt in (*prompts[::3], long)]


def test_greedy_tokens_are_the_argmax_of_the_full_forward(engine, prompts, log_softmax):
    for prompt in prompts:
        tokens, _, finish = answer(engine, prompt, HOWS[0])
        after = log_softmax(prompt + tokens)[len(prompt) - 1 : -1]
        assert tokens == after.argmax(-1).tolist()
        assert (len(tokens), finish) == (20, "length")


def test_log_probs_are_those_of_training(engine, config, params, prompts):
    prompt = prompts[-1]
    for how in HOWS:
        tokens, log_probs, _ = answer(engine, prompt, how)
        row = np.zeros((1, 32), np.int32)
        row[0, : len(prompt) + len(tokens)] = prompt + tokens
        trained = jax.jit(forward.token_log_probs, static_argnums=0)
        expected = np.asarray(trained(config, params, row))[0, len(prompt) :]
        np.testing.assert_allclose(log_probs, expected[: len(tokens)], atol=1e-4)


def test_prompt_log_probs_and_alternatives_are_those_of_the_full_forward(
    engine, prompts, log_softmax
):
    """Also of a prompt in many pieces, beside requests that did not ask."""
    prompt = list(itertools.chain(*prompts))[:28]
    for size in (1, 2, 6, 7, 28):
        how = Sampling(seed=size, max_tokens=3, top=4, prompt_log_probs=True)
        engine.submit(prompt, Sampling(max_tokens=9))
        number, other = engine.submit(prompt[:size], how, n=2)
        deltas = []
        while engine.busy:
            deltas += engine.step()
        mine = [delta for delta in deltas if delta.request == number]
        answered = outputs.TokenScores()
        for delta in mine:
            answered.extend(delta.new)
        whole = log_softmax(prompt[:size] + answered.tokens)
        told = mine[0].prompt
        assert told.tokens == prompt[1:size]
        told.extend(answered)
        assert len(told.tokens) == len(told.top) == size + 2
        for place, (token, log_prob, top) in enumerate(
            zip(told.tokens, told.log_probs, told.top, strict=True)
        ):
            assert log_prob == pytest.approx(whole[place, token], abs=1e-4)
            assert [t for t, _ in top] == np.argsort(-whole[place])[:4].tolist()
            np.testing.assert_allclose(
                [value for _, value in top], -np.sort(-whole[place])[:4], atol=1e-4
            )
        assert not any(d.prompt for d in deltas if d.request == other)


def test_to_be_told_of_the_prompt_changes_no_answer(engine, prompts):
    """And alternatives are no part of what is sampled."""
    prompt = list(itertools.chain(*prompts))[:20]
    plain = Sampling(seed=4, max_tokens=12)
    tokens, log_probs, _ = answer(engine, prompt, plain)
    for how in ({"top": 5}, {"top": 5, "prompt_log_probs": True}):
        found, others, _ = answer(engine, prompt, dataclasses.replace(plain, **how))
        assert found == tokens
        np.testing.assert_allclose(others, log_probs, atol=1e-5)


@pytest.mark.parametrize(
    ("prompt", "tokens", "reason"),
    [
        ([], 1, "no tokens"),
        ([3, 61], 1, "token id 61; the model has 0 to 60"),
        ([-1], 1, "token id -1"),
        ([1] * 20, 29, "has 20 tokens and the answer may have 29: together at most 48"),
    ],
)
def test_what_cannot_be_answered_is_refused(engine, prompt, tokens, reason):
    with pytest.raises(ValueError, match=reason):
        engine.submit(prompt, Sampling(max_tokens=tokens))
    assert not engine.busy


def test_an_answer_does_not_depend_on_what_else_is_asked(engine, prompts):
    """Bit for bit: alone, all at once, in another order, and as others come and go."""
    asked = requests(prompts)
    alone = [answer(engine, *request) for request in asked]
    numbers = [engine.submit(*request)[0] for request in asked]
    found = finish(engine)
    assert [found[number] for number in numbers] == alone
    rng = random.Random(0)
    order = rng.sample(range(len(asked)), len(asked))
    deltas, numbers, cancelled = [], {}, set()
    for index in order:
        numbers[index] = engine.submit(*asked[index])[0]
        (other,) = engine.submit(asked[0][0], Sampling(seed=index, max_tokens=30))
        for _ in range(rng.randrange(4)):
            deltas += engine.step()
        engine.cancel(other)
        cancelled.add(other)
    found = finish(engine, deltas)
    assert [found[numbers[index]] for index in range(len(asked))] == alone
    assert {found[number][2] for number in cancelled} <= {"cancelled", "length"}


def test_n_answers_share_the_prompt_and_differ_in_their_seeds(engine, prompts):
    prompt, how = list(itertools.chain(*prompts))[:20], Sampling(seed=3, max_tokens=9)
    numbers = engine.submit(prompt, how, n=4)
    deltas = []
    while engine.load.running < 4:
        deltas += engine.step()
    # Five blocks for the prompt, of which four are shared, and three for each answer.
    assert engine.load.blocks - engine.load.free_blocks == 4 + 4 * (8 - 4)
    found = finish(engine, deltas)
    alone = [
        answer(engine, prompt, dataclasses.replace(how, seed=3 + i)) for i in range(4)
    ]
    assert [found[number] for number in numbers] == alone
    assert len({tuple(tokens) for tokens, _, _ in alone}) == 4


@pytest.mark.parametrize("data", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_generate_gives_each_prompt_what_it_gets_alone(engine, config, params, data):
    """In their order, bit for bit; equal prompts share blocks, and slots are refilled.

    Prompts are read in two parts; outputs end at stop tokens and at their lengths.
    """
    sizes = dataclasses.replace(CONFIG, split_tail=True, tile=48, rounds=3, blocks=60)
    mesh = meshes.make_mesh(data=data)
    batch = Engine(config, params, mesh, sizes, stop_ids=(7, 8, 9))
    rng = np.random.default_rng(0)
    unique = [rng.integers(10, 61, size).tolist() for size in (3, 17, 6, 12, 25)]
    asked = [
        (unique[index % 5], Sampling(seed=index, max_tokens=1 + index % 19))
        for index in range(30)
    ]
    asked += [(unique[1], HOWS[3]), (unique[1], HOWS[2]), (unique[1], HOWS[0])]
    found = batch.generate(*zip(*asked, strict=True))
    assert [batch.generate([prompt], how)[0] for prompt, how in asked] == found
    assert batch.load.free_blocks == batch.load.blocks
    assert {one.finish_reason for one in found} == {"stop", "length"}
    for (prompt, how), one in zip(asked, found, strict=True):
        how = dataclasses.replace(how, stop_ids=(7, 8, 9))
        tokens, log_probs, reason = answer(engine, prompt, how)
        assert (one.tokens, one.finish_reason) == (tokens, reason)
        np.testing.assert_allclose(one.log_probs, log_probs, atol=1e-4)


def test_generate_without_prompts_gives_nothing(engine):
    assert engine.generate([], Sampling()) == []


def test_generate_names_the_prompt_that_does_not_fit(engine, prompts):
    with pytest.raises(ValueError, match="prompt 1: the prompt has no tokens"):
        engine.generate([prompts[0], []], HOWS[0])
    assert not engine.busy


def test_a_stream_that_is_closed_leaves_nothing_behind(engine, prompts):
    stream = engine.stream(prompts, HOWS[0])
    next(stream)
    with pytest.raises(RuntimeError, match="busy"):
        engine.generate(prompts, HOWS[0])
    stream.close()
    assert not engine.busy
    assert engine.load.free_blocks == engine.load.blocks


def test_followers_of_a_cancelled_prompt_read_it_themselves(engine, prompts):
    """Their blocks were shared before anything was in them."""
    prompt, how = list(itertools.chain(*prompts))[:20], Sampling(seed=3, max_tokens=9)
    first, second, third = engine.submit(prompt, how, n=3)
    deltas = engine.step()  # six of the twenty tokens are read
    engine.cancel(first)
    found = finish(engine, deltas)
    for number, seed in ((second, 4), (third, 5)):
        alone = answer(engine, prompt, dataclasses.replace(how, seed=seed))
        assert found[number] == alone


def test_a_stop_token_ends_the_answer_and_is_its_last(engine, prompts):
    how = HOWS[0]
    tokens, log_probs, _ = answer(engine, prompts[0], how)
    for stop in set(tokens):
        until = tokens.index(stop) + 1
        found = answer(
            engine, prompts[0], dataclasses.replace(how, stop_ids=(60, stop))
        )
        if 60 not in tokens[:until]:
            assert found == (tokens[:until], log_probs[:until], "stop")


def test_more_requests_than_blocks_wait_and_are_all_answered(engine, prompts):
    asked = [(prompt * 3, Sampling(seed=1, max_tokens=20)) for prompt in prompts] * 2
    asked = [(prompt[:28], how) for prompt, how in asked]
    numbers = [engine.submit(*request)[0] for request in asked]
    most = 0
    deltas = []
    while engine.busy:
        deltas += engine.step()
        most = max(most, engine.load.running)
        assert engine.load.free_blocks >= 0
    found = finish(engine, deltas)
    assert [len(found[number][0]) for number in numbers] == [20] * len(asked)
    assert 2 <= most <= 4


def test_cancelling_gives_everything_back(engine, prompts):
    numbers = [engine.submit(p, HOWS[0])[0] for p in prompts]
    engine.step()
    for number in numbers:
        engine.cancel(number)
        engine.cancel(number)
    found = finish(engine)
    assert {found[number][2] for number in numbers} == {"cancelled"}
    engine.cancel(10**9)
    assert answer(engine, prompts[0], HOWS[0])[2] == "length"


def test_steady_state_compiles_nothing(engine, prompts, caplog):
    for request in requests(prompts):
        engine.submit(*request)
    finish(engine)
    with jax.log_compiles():
        for prompt, how in requests(prompts[::-1]):
            engine.submit(prompt[:-1], how, n=2)
        finish(engine)
        assert not caplog.records
        jax.jit(lambda x: x + 1)(np.float32(1))
    assert caplog.records


@pytest.mark.parametrize("data", [1, 2])
def test_a_mesh_changes_nothing(engine, config, params, prompts, data):
    mesh = meshes.make_mesh(data=data, tensor=2)
    shapes = dataclasses.replace(CONFIG, blocks=20)
    split = Engine(config, params, mesh, shapes)
    asked = requests(prompts)
    found = []
    for each in (engine, split):
        numbers = [each.submit(*request)[0] for request in asked]
        answers = finish(each)
        found.append([answers[number] for number in numbers])
    for one, two in zip(*found, strict=True):
        assert (one[0], one[2]) == (two[0], two[2])
        np.testing.assert_allclose(two[1], one[1], atol=1e-4)


@pytest.mark.parametrize(
    ("prompt", "tokens", "reason"),
    [
        ([], 5, "no tokens"),
        ([1] * 40, 9, "40 tokens and the answer may have 9: together at most 48"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(engine, prompt, tokens, reason):
    with pytest.raises(ValueError, match=reason):
        engine.submit(prompt, Sampling(max_tokens=tokens))
    assert not engine.busy


@pytest.mark.parametrize(
    ("sizes", "shapes", "reason"),
    [
        ({"pipe": 2}, CONFIG, "needs pipe=1, got 2"),
        ({"data": 3}, CONFIG, "slots=4 does not divide over data=3"),
        ({"tensor": 4}, CONFIG, "num_kv_heads"),
        ({}, dataclasses.replace(CONFIG, tile=6), "tile=6 is no multiple"),
    ],
)
def test_what_does_not_divide_is_refused(config, params, sizes, shapes, reason):
    with pytest.raises(ValueError, match=reason):
        Engine(config, params, meshes.make_mesh(**sizes), shapes)


def test_as_many_stop_tokens_as_a_row_has_room_for(engine, prompts):
    ids = tuple(range(40, 40 + sampling.MAX_STOP_IDS))
    how = Sampling(seed=2, max_tokens=20, stop_ids=ids)
    tokens, _, _ = answer(engine, prompts[1], how)
    assert not set(tokens[:-1]) & set(ids)


def test_texts_that_are_looked_at_in_one_piece(engine, config, params, prompts):
    """The same answers, and alone as among others."""
    shapes = dataclasses.replace(CONFIG, tile=CONFIG.max_length)
    whole = Engine(config, params, meshes.make_mesh(), shapes)
    asked = requests(prompts)
    numbers = [whole.submit(*request)[0] for request in asked]
    found = finish(whole)
    found = [found[number] for number in numbers]
    assert [answer(whole, *request) for request in asked] == found
    for request, (tokens, log_probs, reason) in zip(asked, found, strict=True):
        expected = answer(engine, *request)
        assert (tokens, reason) == (expected[0], expected[2])
        np.testing.assert_allclose(log_probs, expected[1], atol=1e-4)


def test_a_row_is_free_once_its_last_token_is_asked_for(engine, prompts):
    """Before the host has seen it: the next answer begins a call earlier."""
    how = Sampling(temperature=0.0, max_tokens=1 + CONFIG.steps)
    (number,) = engine.submit(prompts[0], how)
    deltas = engine.step()
    while engine.load.running:
        deltas += engine.step()
    assert not any(delta.finish_reason for delta in deltas)
    assert engine.busy
    assert len(finish(engine, deltas)[number][0]) == 1 + CONFIG.steps

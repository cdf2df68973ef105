"""A policy answers conversations, and a scorer scores them, through the template."""

import dataclasses

import numpy as np
import pytest

from nemojax.data.records import Conversation
from nemojax.data.text import nemotron_template
from nemojax.data.text.nemotron_template import NEMOTRON
from nemojax.generation import generators
from nemojax.generation.generators import Request
from nemojax.inference.engine import config as configs
from nemojax.inference.engine.engine import Engine
from nemojax.inference.engine.sampling import Sampling
from nemojax.interop.loading import LoadedModel
from nemojax.models import forward
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from nemojax.recipe.miniature import policy as policies
from nemojax.recipe.miniature.policy import Policy

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def loaded(config, make_params, tokenizer):
    def make(num_attributes):
        layout = Layout(meshes.make_mesh())
        params = make_params(num_attributes)
        return LoadedModel(
            "toy", config, params, layout, tokenizer, NEMOTRON, (), (), {}
        )

    return make


@pytest.fixture(scope="module")
def policy(loaded):
    return Policy(loaded(0), max_prompt_tokens=20, max_new_tokens=12)


@pytest.fixture(scope="module")
def judge(loaded):
    model = loaded(5)
    kernel = np.random.default_rng(0).normal(size=(32, 5)).astype(np.float32)
    head = model.params["reward_head"] | {"kernel": kernel}
    return dataclasses.replace(model, params=model.params | {"reward_head": head})


def test_a_response_is_the_text_of_the_sampled_tokens(policy, prompts):
    """Control tokens and rows that no id uses write nothing, and break nothing.

    A new model samples each of its 64 rows about equally often.
    """
    model, many = policy.model, prompts * 5
    requests = [Request(str(k), prompt, seed=3) for k, prompt in enumerate(many)]
    responses = list(policy.generate(requests))
    stop = nemotron_template.stop_id(model.tokenizer)
    samples = Engine.from_model(model, configs.serving(2, 32)).generate(
        [model.template.encode_prompt(model.tokenizer, prompt) for prompt in many],
        [
            Sampling(seed=request.sampling_seed, max_tokens=12, stop_ids=(stop,))
            for request in requests
        ],
    )
    assert max(max(one.tokens) for one in samples) >= model.tokenizer.vocab_size
    for response, one in zip(responses, samples, strict=True):
        stopped = one.tokens[-1] == stop
        tokens = one.tokens[: len(one.tokens) - stopped]
        known = [token for token in tokens if token < model.tokenizer.vocab_size]
        assert response.text == model.tokenizer.decode(known).removesuffix("\n")
        assert response.finish_reason == ("stop" if stopped else "length")
        assert response.tokens == len(tokens)


def test_equal_prompts_have_random_streams_of_their_own(policy, prompts):
    def texts_of(count, seed):
        [row] = generators.sample(
            policy, prompts[:1], samples=count, temperature=1.0, seed=seed
        )
        return [response.text for response in row]

    texts = texts_of(6, 3)
    assert len(set(texts)) == 6
    assert texts_of(4, 3) == texts[:4]
    assert not set(texts_of(4, 4)) & set(texts)


def test_a_continuation_ends_before_its_stop(policy, prompts):
    """Greedy: with another stop the tokens are the same up to it."""
    model = policy.model
    encoded = [model.template.encode_prompt(model.tokenizer, prompts[0])]
    (whole,) = policy.complete(encoded, stop_id=10_000)
    assert len(whole) == 12
    (cut,) = policy.complete(encoded, stop_id=whole[5])
    assert cut == whole[: whole.index(whole[5])]


def test_requests_of_any_temperatures_come_back_by_their_ids(policy, prompts):
    requests = [
        Request(f"{index}", prompts[index % 2], temperature=float(index % 3 == 0))
        for index in range(6)
    ]
    found = {response.id: response.text for response in policy.generate(requests)}
    assert sorted(found) == [request.id for request in requests]
    assert found["1"] == found["5"] != found["2"] == found["4"]


def test_attributes_are_read_at_the_end_of_the_reward_format(judge, prompts):
    conversations = [prompt.with_response("red") for prompt in prompts]
    found = policies.attributes(judge, conversations, length=32)
    for conversation, values in zip(conversations, found, strict=True):
        tokens = judge.template.encode_for_reward(judge.tokenizer, conversation)
        assert tokens[-1] == judge.tokenizer.control("<extra_id_2>")
        expected = forward.rewards(judge.config, judge.params, np.array([tokens]))
        np.testing.assert_allclose(values, expected[0, -1], atol=1e-4)
    assert len(np.unique(found)) > 20


def test_a_conversation_that_is_too_long_to_score_is_refused_by_index(judge):
    conversations = [
        Conversation.of("red", "red"),
        Conversation.of("red " * 40, "red"),
    ]
    with pytest.raises(ValueError, match=r"sequence 1 has \d+ tokens; from 1 to 32"):
        policies.attributes(judge, conversations, length=32)

"""A policy answers conversations, and a scorer scores them, through the template."""

import numpy as np
import pytest

from nemojax.data.records import Conversation
from nemojax.data.text import nemotron_template
from nemojax.generation import generators
from nemojax.generation.generators import Request
from nemojax.inference.scoring import scoring
from nemojax.recipe.miniature.policy import Policy, RewardScorer

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def policy(config, make_params, tokenizer, trainer):
    return Policy(
        "toy",
        config,
        make_params(0),
        trainer.mesh,
        tokenizer,
        trainer.template,
        max_prompt_tokens=20,
        max_new_tokens=12,
    )


@pytest.fixture(scope="module")
def scorer(config, make_params, tokenizer, trainer):
    params = make_params(5)
    kernel = np.random.default_rng(0).normal(size=(32, 5)).astype(np.float32)
    params = params | {"reward_head": params["reward_head"] | {"kernel": kernel}}
    return RewardScorer(
        config, params, trainer.mesh, tokenizer, trainer.template, rows=2, length=32
    )


def test_a_response_is_the_text_of_the_sampled_tokens(policy, tokenizer, prompts):
    """Control tokens and rows that no id uses write nothing, and break nothing.

    A new model samples each of its 64 rows about equally often.
    """
    many = prompts * 5
    requests = [Request(str(k), prompt, seed=3) for k, prompt in enumerate(many)]
    responses = list(policy.generate(requests))
    encoded = [policy.template.encode_prompt(tokenizer, prompt) for prompt in many]
    seeds = [request.sampling_seed for request in requests]
    samples = policy._engine.sample(encoded, temperature=1.0, seeds=seeds)
    tokens = [token for sample in samples for token in sample.tokens]
    assert max(tokens) >= tokenizer.vocab_size
    for response, sample in zip(responses, samples, strict=True):
        known = [token for token in sample.tokens if token < tokenizer.vocab_size]
        assert response.text == nemotron_template.response_text(tokenizer, known)


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


def test_a_continuation_ends_before_its_stop(policy, tokenizer, prompts):
    """Greedy: with another stop the tokens are the same up to it."""
    encoded = [policy.template.encode_prompt(tokenizer, prompts[0])]
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


def test_attributes_are_read_at_the_end_of_the_reward_format(
    scorer, tokenizer, prompts
):
    conversations = [prompt.with_response("red") for prompt in prompts]
    found = scorer.attributes(conversations)
    tokens = [
        scorer.template.encode_for_reward(tokenizer, conversation)
        for conversation in conversations
    ]
    assert {one[-1] for one in tokens} == {tokenizer.control("<extra_id_2>")}
    expected = scoring.score_rewards(
        scorer.config, scorer.params, tokens, mesh=scorer.mesh, rows=2, length=32
    )
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(found).all()
    assert len(np.unique(found)) > 20


def test_a_conversation_that_is_too_long_to_score_is_refused_by_index(scorer):
    conversations = [
        Conversation.of("red", "red"),
        Conversation.of("red " * 40, "red"),
    ]
    with pytest.raises(ValueError, match=r"conversation 1 has \d+ tokens.*takes 32"):
        scorer.attributes(conversations)

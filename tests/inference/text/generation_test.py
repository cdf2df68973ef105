"""From text to text: the response is the text of the tokens that the engine gives."""

import pytest

from nemojax.data.records import Conversation
from nemojax.inference.engine import config as configs
from nemojax.inference.engine.engine import Engine
from nemojax.inference.engine.sampling import Sampling
from nemojax.inference.text import generation
from nemojax.interop import loading
from tests.inference.server import serving_process

pytestmark = pytest.mark.usefixtures("quick_compile")

SAMPLING = Sampling(temperature=0.8, seed=5, max_tokens=24)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = serving_process.write_model(tmp_path_factory.mktemp("models") / "tiny")
    return loading.load(folder)


@pytest.fixture(scope="module")
def engine(model):
    return Engine.from_model(model, configs.serving(2, 96))


def test_responses_are_the_text_of_the_tokens_and_differ_in_their_seeds(model, engine):
    prompts = ["the teacher", Conversation.of("Hi"), "the teacher"]
    found = generation.generate(model, prompts, SAMPLING, engine=engine)
    assert found[0].tokens != found[2].tokens
    for response in found:
        tokens = response.tokens
        if response.finish_reason == "stop":
            tokens = tokens[:-1]
        assert response.text == model.decode(tokens).removesuffix("\n")
        assert len(response.log_probs) == len(response.tokens) <= 24
    alone = [
        generation.generate(
            model, [prompt], Sampling(temperature=0.8, seed=5 + k, max_tokens=24)
        )[0]
        for k, prompt in enumerate(prompts[:2])
    ]
    assert [one.tokens for one in alone] == [one.tokens for one in found[:2]]


def test_a_stop_string_ends_the_text_before_it(model, engine):
    """The sampled tokens are those that come without the stop string."""
    (whole,) = generation.generate(model, ["the teacher"], SAMPLING, engine=engine)
    stop = whole.text[5:8]
    (cut,) = generation.generate(
        model, ["the teacher"], SAMPLING, stops=[stop], engine=engine
    )
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.tokens == whole.tokens[: len(cut.tokens)]


def test_the_prompt_that_does_not_fit_is_named(model, engine):
    with pytest.raises(ValueError, match=r"prompt 1: the prompt has .* at most 96"):
        generation.generate(model, ["Hi", "a" * 99], SAMPLING, engine=engine)
    assert generation.generate(model, [], engine=engine) == []

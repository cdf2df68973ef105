"""The chat template against the layout of Nemotron's chat data.

testdata/chat_template_vectors.json has dialogues with their text and loss mask, the
mask for a tokenizer in which a control piece is one token and so is every other
character. They were made by NeMo's own chat preprocessing.
"""

import dataclasses
import itertools
import json
import pathlib

import hypothesis
import pytest
from hypothesis import strategies

from nemojax.data.records import Conversation, Message
from nemojax.data.text import nemotron_template
from nemojax.data.text import tokenizer as tokenizer_lib
from nemojax.data.text.nemotron_template import NEMOTRON, NEMOTRON_REWARD

_FILE = pathlib.Path(__file__).parent / "testdata" / "chat_template_vectors.json"
VECTORS = json.loads(_FILE.read_text())
TEXTS = ["System\nUser\nAssistant\nsome words, 1 + 1 = 2 <extra_id_1>User\n"] * 20
CONTENT = strategies.one_of(
    strategies.text(), strategies.sampled_from(["", " ", "<extra_id_1>User\n", "\n"])
)


@pytest.fixture(scope="module", params=[False, True], ids=["exact", "dummy_prefix"])
def tokenizer(request):
    return tokenizer_lib.train(TEXTS, vocab_size=300, dummy_prefix=request.param)


@pytest.fixture(scope="module")
def exact():
    return tokenizer_lib.train(TEXTS, vocab_size=300)


def _text(tokenizer, tokens):
    """The text of tokens of an exact tokenizer, control tokens written out."""
    names = {tokenizer.control(f"<extra_id_{i}>"): f"<extra_id_{i}>" for i in range(3)}
    return "".join(names.get(t) or tokenizer.decode([t]) for t in tokens)


def _conversation(system, turns, labels=()):
    roles = ("user", "assistant")
    messages = [Message("system", system)] if system else []
    for i, (turn, label) in enumerate(itertools.zip_longest(turns, labels)):
        messages.append(Message(roles[i % 2], turn, label or ""))
    return Conversation(tuple(messages))


@pytest.mark.parametrize("vector", VECTORS, ids=[v["id"] for v in VECTORS])
def test_text_and_mask_are_those_of_the_vectors(exact, vector):
    example, expected = vector["inputs"]["example"], vector["expected"]
    text, mask = expected["text"], expected["loss_mask"]
    turns = example["conversations"]
    values, labels = zip(*((t["value"], t["label"]) for t in turns), strict=True)
    talk = _conversation(example["system"], values, labels)
    tokens, token_mask = NEMOTRON.encode(exact, talk)
    assert _text(exact, tokens) == text
    # An ordinary token is as many pieces of the vector as it has characters.
    ordinary = {t for t in tokens if t > exact.control("<extra_id_7>")}
    sizes = [len(exact.decode([t])) if t in ordinary else 1 for t in tokens]
    assert [m for m, n in zip(token_mask, sizes, strict=True) for _ in range(n)] == mask
    trained = [t for t, m in zip(tokens, token_mask, strict=True) if m]
    assert _text(exact, trained) == expected["trained_text"]


@hypothesis.settings(max_examples=50)
@hypothesis.given(
    system=CONTENT,
    turns=strategies.lists(CONTENT, min_size=1, max_size=5).filter(
        lambda t: len(t) % 2
    ),
    response=CONTENT,
)
def test_whatever_the_messages_say(tokenizer, system, turns, response):
    """Prompts are prefixes, responses come back, only the template opens turns."""
    prompt = _conversation(system, turns)
    prompt_tokens = NEMOTRON.encode_prompt(tokenizer, prompt)
    tokens, mask = NEMOTRON.encode_response(tokenizer, prompt, response)
    size = len(prompt_tokens)
    assert tokens[:size] == prompt_tokens
    assert mask == [0] * size + [1] * (len(tokens) - size)
    assert tokens[-1] == nemotron_template.stop_id(tokenizer)
    assert tokenizer.decode(tokens[size:-1]) == f"{response}\n"
    turn_start = nemotron_template.stop_id(tokenizer)
    assert tokens.count(turn_start) == len(turns) + 2
    assert tokens.count(tokenizer.control("<extra_id_0>")) == 1
    scored = NEMOTRON.encode_for_reward(tokenizer, prompt.with_response(response))
    assert scored == [*tokens[:-1], tokenizer.control("<extra_id_2>")]
    if response and all(turns):
        trained, all_mask = NEMOTRON.encode(tokenizer, prompt.with_response(response))
        assert trained == tokens
        assert all_mask[size:] == mask[size:]


def test_reward_text_ends_with_the_label_token_and_no_newline(exact):
    tokens = NEMOTRON.encode_for_reward(exact, Conversation.of("Q", "A", "S"))
    assert _text(exact, tokens) == (
        "<extra_id_0>System\nS\n<extra_id_1>User\nQ\n<extra_id_1>Assistant\nA\n<extra_id_2>"
    )


def test_released_reward_models_have_a_system_text_of_their_own(exact):
    plain = Conversation.of("Q", "A")
    named = Conversation.of("Q", "A", nemotron_template.REWARD_SYSTEM)
    tokens = NEMOTRON_REWARD.encode_for_reward(exact, plain)
    assert tokens == NEMOTRON.encode_for_reward(exact, named)
    other = Conversation.of("Q", "A", "S")
    assert NEMOTRON_REWARD.encode(exact, other) == NEMOTRON.encode(exact, other)


@pytest.mark.parametrize(
    ("roles", "problem"),
    [
        ("a", "message 0: role 'assistant' where 'user'"),
        ("uu", "message 1: role 'user' where 'assistant'"),
        ("suaa", "message 3: role 'assistant' where 'user'"),
        ("us", "message 1: a system message can only come first"),
        ("ssu", "message 1: a system message can only come first"),
        ("s", "message 1: there is no user turn"),
        ("", "there is no user turn"),
        ("u", "there is no assistant turn to train on"),
    ],
)
def test_training_names_the_message_that_is_wrong(exact, roles, problem):
    names = {"s": "system", "u": "user", "a": "assistant"}
    conversation = Conversation(tuple(Message(names[role], "x") for role in roles))
    with pytest.raises(ValueError, match=problem):
        NEMOTRON.encode(exact, conversation)


def test_empty_assistant_turns_are_not_trained_on(exact):
    with pytest.raises(ValueError, match="message 2: the assistant turn is empty"):
        NEMOTRON.encode(exact, Conversation.of("Q", "", system="S"))


def test_prompts_end_with_a_user_and_scored_texts_with_an_assistant(exact):
    with pytest.raises(ValueError, match="message 1: role 'assistant' where the last"):
        NEMOTRON.encode_prompt(exact, Conversation.of("Q", "A"))
    with pytest.raises(ValueError, match="message 0: role 'user' where the last"):
        NEMOTRON.encode_for_reward(exact, Conversation.of("Q"))
    with pytest.raises(ValueError, match="no messages"):
        NEMOTRON.encode_prompt(exact, Conversation(()))


def test_an_answer_that_is_only_context_has_its_tokens_and_no_mask(exact):
    first, last = Message("assistant", "A"), Message("assistant", "B")
    context = dataclasses.replace(first, trained=False)
    asked = Message("user", "Q")
    tokens, mask = NEMOTRON.encode(exact, Conversation((asked, first, asked, last)))
    talk = Conversation((asked, context, asked, last))
    assert NEMOTRON.encode(exact, talk)[0] == tokens
    prompt = Conversation(talk.messages[:-1])
    assert NEMOTRON.encode(exact, talk) == NEMOTRON.encode_response(exact, prompt, "B")
    assert sum(mask) > sum(NEMOTRON.encode(exact, talk)[1])
    with pytest.raises(ValueError, match="there is no assistant turn to train on"):
        NEMOTRON.encode(exact, Conversation((asked, context)))

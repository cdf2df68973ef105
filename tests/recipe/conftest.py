"""A toy language of repeated words, its tokenizer and a tiny model of it."""

import functools

import jax
import pytest

from nemojax.data.records import Conversation
from nemojax.data.text import tokenizer as tokenizers
from nemojax.models import forward
from nemojax.models.config import ModelConfig

pytest.register_assert_rewrite("tests.recipe.usable")

WORDS = ("red", "blue", "green", "tin", "gold", "lead")


@pytest.fixture(scope="session")
def prompts():
    """One conversation a word, that asks for it twice."""
    return [Conversation.of(f"{word} twice") for word in WORDS]


@pytest.fixture(scope="session")
def tokenizer():
    """Some sixty ids: the words' letters and a few of their pairs."""
    texts = [f"User\nAssistant\nSystem\n{word} twice {word} {word}" for word in WORDS]
    return tokenizers.train(texts * 20, vocab_size=60, byte_fallback=False)


@pytest.fixture(scope="session")
def config(tokenizer):
    """A model with more rows than the tokenizer has ids, as after rounding up."""
    return ModelConfig(
        vocab_size=tokenizer.vocab_size + 4,
        num_layers=1,
        d_model=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        d_ff=48,
        init_std=0.05,
        compute_dtype="float32",
    )


@pytest.fixture(scope="session")
def make_params(config):
    """num_attributes -> fresh parameters."""

    @functools.cache
    def make(num_attributes):
        init = functools.partial(forward.init, config, num_attributes=num_attributes)
        return jax.jit(init)(jax.random.key(0))

    return make

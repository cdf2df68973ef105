"""A toy language, a tiny model of it and its folder; small runs of both recipes."""

import contextlib
import dataclasses
import functools

import jax
import pytest

from experiments import recipe
from nemojax.data.records import Conversation
from nemojax.data.text import tokenizer as tokenizers
from nemojax.interop import loading
from nemojax.models import forward
from nemojax.models.config import ModelConfig
from tests.inference.scoring.scored import write_model
from tests.recipe import micro
from tests.recipe.folder import real_folder

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


@pytest.fixture(scope="session")
def folder(config, tokenizer, tmp_path_factory):
    """Of a model that every mesh of two by two by two divides."""
    deep = dataclasses.replace(config, num_layers=2, vocab_size=64)
    init = functools.partial(forward.init, deep)
    params = jax.jit(init)(jax.random.key(0))
    return write_model(tmp_path_factory.mktemp("base") / "m", deep, params, tokenizer)


@pytest.fixture(scope="session")
def model(folder):
    """The model, on one device."""
    return loading.load(folder)


@contextlib.contextmanager
def _quick_compile():
    """As the fixture of that name, for fixtures that outlive a module."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def miniature_run(tmp_path_factory):
    """The folder of a finished run of the miniature."""
    path = tmp_path_factory.mktemp("micro")
    with _quick_compile():
        micro.run(path)
    return path


@pytest.fixture(scope="session")
def folder_data(tmp_path_factory):
    """The data folder of `folder_run`."""
    return real_folder.write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def folder_run(folder_data, tmp_path_factory):
    """The folder of a finished run of the recipe on `folder_data`."""
    path = tmp_path_factory.mktemp("run") / "work"
    with _quick_compile():
        recipe.run_recipe(str(folder_data), str(path), real_folder.settings())
    return path

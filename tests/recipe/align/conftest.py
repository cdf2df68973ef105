"""A tiny model folder."""

import dataclasses
import functools

import jax
import pytest

from nemojax.interop import loading
from nemojax.models import forward
from tests.inference.scoring.scored import write_model


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

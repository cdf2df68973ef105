"""The measures agree with their definitions, computed another way."""

import math

import jax
import numpy as np
import pytest

from nemojax.data.pretraining.corpus import Document
from nemojax.data.text import tokenizer as tokenizers
from nemojax.models import forward
from nemojax.parallel import mesh as meshes
from nemojax.recipe.folder import measures
from tests.recipe.folder import real_folder

SETTINGS = real_folder.settings()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = real_folder.write(tmp_path_factory.mktemp("data"))
    texts = [path.read_bytes() for path in sorted(folder.rglob("dev-*"))]
    lines = [line for text in texts for line in text.decode().splitlines()]
    return tokenizers.train(lines * 20, vocab_size=384)


def document(text: str) -> Document:
    return Document(text, "", "", "english")


def test_texts_hold_each_token_once_and_count_its_bytes(tokenizer):
    written_texts = ["The river crosses the bridge. " * 30, "grün"]
    documents = [document(text) for text in written_texts]
    found = measures.texts(tokenizer, documents, length=20, num_bytes=1000)
    for text, of in zip(found, written_texts, strict=True):
        written = of.encode()[:500].decode()
        targets = [
            token
            for tokens, mask in text.rows
            for token, target in zip(tokens, mask, strict=True)
            if target
        ]
        assert tokenizer.decode(targets) == written
        assert text.num_bytes == len(written.encode())
        assert all(len(tokens) <= 20 for tokens, _ in text.rows)
        assert all(tokens[0] == tokenizer.bos_id for tokens, _ in text.rows)


def test_texts_cut_no_character_in_two(tokenizer):
    (text,) = measures.texts(tokenizer, [document("grün")], 20, num_bytes=3)
    assert text.num_bytes == 2


def test_uniform_model_has_the_measures_that_follow(tokenizer):
    """With an LM head of zeros every token has probability 1 / V."""
    config = SETTINGS.model(tokenizer.vocab_size)
    params = forward.init(config, jax.random.key(0))
    params["lm_head"] = jax.tree.map(lambda leaf: 0 * leaf, params["lm_head"])
    nats = math.log(config.vocab_size)
    text = measures.texts(tokenizer, [document("The lamp.")] * 2, 20, 100)
    row = ([2, 30, 31, 32], [0, 0, 1, 1])
    short, long = ([2, 30, 31], [0, 1, 1]), ([2, 30, 31, 32], [0, 1, 1, 1])
    found = measures.Measures(
        meshes.make_mesh(), 20, {"code": text}, {"a": [row, row]},
        [(short, long), (long, short)],
    ).policy(config, params)  # fmt: skip
    bits = len(tokenizer.encode("The lamp.")) * nats / math.log(2)
    metrics = found["metrics"]
    assert metrics["bits_per_byte_code"]["value"] == pytest.approx(bits / 9, rel=1e-5)
    assert metrics["a_loss"]["value"] == pytest.approx(nats, rel=1e-5)
    # The sum favours the shorter response; by the mean they tie, which is no success.
    assert found["outcomes"][measures.SUM] == [1, 0]
    assert metrics[measures.SUM]["value"] == 0.5
    assert metrics[measures.MEAN]["value"] <= 0.5


@pytest.mark.parametrize("targets", [1, 255, 256, 300])
def test_long_sequences_count_all_their_targets(targets):
    """Their masks are of one byte, as examples keep them."""
    row = (
        np.zeros(targets + 3, np.int32),
        np.r_[[0] * 3, [1] * targets].astype(np.uint8),
    )
    pairs = [(row, ([1, 2], [0, 1]))]
    found = measures.Measures(meshes.make_mesh(), 400, {}, {"a": [row, row]}, pairs)
    assert found.losses(lambda rows: np.full(len(rows), -targets))[
        "a_loss"
    ].value == pytest.approx(1.0)
    # A nat a token, beside one of two nats: better by the mean.
    outcomes = found.preferences(lambda rows: np.array([-float(targets), -2.0]))
    assert outcomes == {
        measures.SUM: [int(targets < 2)],
        measures.MEAN: [1],
    }


def test_ratio_of_sums_is_not_the_mean_of_ratios():
    found = measures.ratio([1.0, 30.0], [1, 10])
    assert found.value == pytest.approx(31 / 11)
    assert found.n == 2


def test_interval_of_equal_denominators_is_that_of_the_mean():
    values = np.random.default_rng(0).normal(size=40)
    mean = measures.statistics.mean(values)
    found = measures.ratio(values * 7, np.full(40, 7))
    assert found.interval == pytest.approx(mean.interval)


def test_interval_covers_the_true_ratio_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        sizes = rng.integers(20, 60, size=50)
        bits = 2.5 * sizes + rng.normal(size=50) * np.sqrt(sizes)
        low, high = measures.ratio(bits, sizes).interval or (0, 0)
        covered += low < 2.5 < high
    assert 0.92 < covered / 400 < 0.98


@pytest.mark.parametrize(
    ("above", "below"), [([], []), ([1.0], [1, 2]), ([1.0], [0]), ([math.nan], [1])]
)
def test_ratio_refuses_what_has_none(above, below):
    with pytest.raises(ValueError):
        measures.ratio(above, below)

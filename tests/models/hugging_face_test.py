"""Our logits are those of transformers, live; runs where torch is installed."""

import functools

import jax
import numpy as np
import pytest

from nemojax.interop import huggingface
from nemojax.models import forward
from tests.models import variants
from tests.models.variants import VARIANTS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors")

pytestmark = pytest.mark.usefixtures("quick_compile")


@functools.cache
def reference(name, dtype="float32"):
    """The model of transformers."""
    return variants.reference(name, dtype)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """name -> (config, params), read from what transformers wrote."""

    @functools.cache
    def load(name, dtype="float32"):
        path = tmp_path_factory.mktemp(name)
        reference(name, dtype).save_pretrained(path)
        return huggingface.load(path)

    return load


@functools.partial(jax.jit, static_argnames="config")
def run(config, params, tokens, positions, segment_ids):
    return forward.logits(
        config, params, tokens, positions=positions, segment_ids=segment_ids
    )


def ours(loaded, name, tokens, *, dtype="float32", offset=0, segment_ids=None):
    config, params = loaded(name, dtype)
    positions = np.broadcast_to(offset + np.arange(tokens.shape[1]), tokens.shape)
    if segment_ids is None:
        segment_ids = np.ones_like(tokens)
    return np.asarray(run(config, params, tokens, positions, segment_ids))


def theirs(name, tokens, dtype="float32", **options):
    with torch.no_grad():
        inputs = torch.tensor(tokens, dtype=torch.long)
        return reference(name, dtype)(inputs, **options).logits.float().numpy()


@pytest.mark.parametrize("name", VARIANTS)
def test_logits(loaded, tokens, name):
    expected = theirs(name, tokens)
    assert expected.std() > 0.05
    np.testing.assert_allclose(ours(loaded, name, tokens), expected, atol=2e-5)


@pytest.mark.parametrize("name", ["nemotron", "llama-theta", "llama-31"])
@pytest.mark.parametrize("offset", [8_190, 100_000])
def test_logits_far_into_the_context(loaded, tokens, name, offset):
    """Rotary positions past 8,192, where Llama 3.1's frequencies are stretched."""
    positions = torch.arange(offset, offset + tokens.shape[1])[None]
    expected = theirs(name, tokens, position_ids=positions)
    found = ours(loaded, name, tokens, offset=offset)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("name", ["nemotron", "llama-31"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_padded_rows(loaded, tokens, name, side):
    """Padding is segment 0 here and attention mask 0 there."""
    mask = np.ones_like(tokens)
    for row, count in enumerate((0, 3, 7, 12)):
        place = slice(0, count) if side == "left" else slice(16 - count, None)
        mask[row, place] = 0
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    expected = theirs(
        name,
        tokens,
        attention_mask=torch.tensor(mask),
        position_ids=torch.tensor(positions),
    )
    config, params = loaded(name)
    found = np.asarray(run(config, params, tokens, positions, mask))
    np.testing.assert_allclose(found[mask > 0], expected[mask > 0], atol=2e-5)


@pytest.mark.parametrize("name", ["nemotron", "llama-31"])
def test_logits_of_packed_segments_are_those_of_separate_runs(loaded, tokens, name):
    ends = (5, 9, 16)
    segment_ids = np.repeat([1, 2, 3], np.diff((0, *ends)))
    positions = np.concatenate([np.arange(n) for n in np.diff((0, *ends))])
    config, params = loaded(name)
    shape = tokens.shape
    found = np.asarray(
        run(
            config,
            params,
            tokens,
            np.broadcast_to(positions, shape),
            np.broadcast_to(segment_ids, shape),
        )
    )
    for start, end in zip((0, *ends[:-1]), ends, strict=True):
        expected = theirs(name, tokens[:, start:end])
        np.testing.assert_allclose(found[:, start:end], expected, atol=2e-5)


@pytest.mark.parametrize("name", ["nemotron", "llama", "llama-31"])
def test_logits_in_bfloat16(loaded, tokens, name):
    """Both round in other places: they differ by less than twice what either rounds."""
    exact = theirs(name, tokens)
    rounding = np.abs(theirs(name, tokens, "bfloat16") - exact)
    config, _ = loaded(name, "bfloat16")
    assert config.compute_dtype == "bfloat16"
    found = ours(loaded, name, tokens, dtype="bfloat16")
    assert np.abs(found - exact).mean() < 2 * rounding.mean()
    assert np.abs(found - exact).max() < 3 * rounding.max()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["nemotron", "nemotron-tied", "llama", "llama-31"])
def test_what_is_saved_loads_without_a_complaint(loaded, tokens, tmp_path, name, dtype):
    config, params = loaded(name, dtype)
    huggingface.save(tmp_path / "model", config, params)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info[key] for key in info), info
    wanted = reference(name, dtype).state_dict()
    found = model.state_dict()
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key
    with torch.no_grad():
        again = model(torch.tensor(tokens, dtype=torch.long)).logits
    np.testing.assert_array_equal(again.float().numpy(), theirs(name, tokens, dtype))

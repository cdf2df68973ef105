"""Kernels are quantised while they are read, from folders of both kinds."""

import pytest

from nemojax.data.text import tokenizer as tokenizers
from nemojax.interop import huggingface, loading, model_folder
from nemojax.models import quantized
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from tests.interop.tiny import NEMOTRON, assert_same, random_params


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same model as a model folder and as a Hugging Face checkpoint."""
    root = tmp_path_factory.mktemp("models")
    texts = ["one two three four five six seven eight nine ten"] * 20
    words = tokenizers.train(texts, vocab_size=64, byte_fallback=False)
    words.save(root / "tokenizer.model")
    params = random_params(NEMOTRON, "bfloat16")
    files = {"tokenizer.model": root / "tokenizer.model"}
    model_folder.save(root / "folder", NEMOTRON, params, files=files)
    huggingface.save(root / "hf", NEMOTRON, params, files=files)
    return root


@pytest.mark.parametrize("name", ["folder", "hf"])
@pytest.mark.parametrize("kind", [None, *quantized.KINDS])
@pytest.mark.parametrize("tensor", [1, 2])
def test_a_model_is_quantised_as_it_is_read(folders, name, kind, tensor):
    mesh = meshes.make_mesh(tensor=tensor)
    found = loading.load(folders / name, Layout(mesh), quantize=kind).params
    params = random_params(NEMOTRON, "bfloat16")
    assert_same(found, quantized.quantize(params, kind) if kind else params)
    up = found["layers"]["mlp"]["up"]
    assert up.addressable_shards[0].data.shape[-1] == NEMOTRON.d_ff // tensor


@pytest.mark.parametrize("name", ["folder", "hf"])
def test_the_full_kernels_do_not_stay(folders, name, monkeypatch):
    """Each is deleted before the next is read: one is there at a time."""
    there, most = [], []
    for module in (model_folder, huggingface):
        original = module.leaves

        def watched(*args, _original=original, **options):
            for path, leaf in _original(*args, **options):
                kernels = [one for one in there if not one.is_deleted()]
                most.append(len(kernels))
                if path[:1] == ("layers",) and leaf.ndim == 3:
                    there.append(leaf)
                yield path, leaf

        monkeypatch.setattr(module, "leaves", watched)
    loading.load(folders / name, quantize="int8")
    assert len(there) == 6 and max(most) == 0


def test_an_unknown_kind_is_refused_before_anything_is_read(folders):
    with pytest.raises(ValueError, match="unknown kind 'int3'"):
        loading.load(folders / "hf", quantize="int3")

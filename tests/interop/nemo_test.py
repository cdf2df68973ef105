"""`.nemo` archives, made here in the released layout: in, and what is refused."""

import io
import os
import tarfile

import numpy as np
import pytest
import yaml

from nemojax.errors import UserError
from nemojax.interop import archives, nemo
from nemojax.models import trees
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from tests.interop import nemo_files
from tests.interop.nemo_files import CONFIG, FIELDS, write_array
from tests.interop.tiny import assert_same, random_params


def load(path, layout=None):
    with archives.opened(path) as folder:
        leaves = nemo.leaves(folder, layout or Layout())
        return nemo.read_config(folder), trees.build(leaves)


@pytest.fixture
def directory(tmp_path):
    """An unpacked checkpoint with a reward head of nine outputs."""
    nemo_files.write(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def expected():
    """Of the nine outputs the last five are HelpSteer2's."""
    params = random_params(CONFIG, "bfloat16", 9)
    head = params["reward_head"]
    head = {"kernel": head["kernel"][:, 4:], "bias": head["bias"][4:]}
    return {**params, "reward_head": head}


@pytest.fixture
def packed(directory):
    path = directory.with_suffix(".nemo")
    with tarfile.open(path, "w") as archive:
        archive.add(directory, arcname=".")
    return path


@pytest.mark.parametrize("kind", ["directory", "packed"])
def test_a_checkpoint_is_the_model_that_was_written(kind, request):
    config, tree = load(request.getfixturevalue(kind))
    assert config == CONFIG
    assert_same(tree, expected())


def test_every_device_reads_its_own_shard(directory):
    _, tree = load(directory, Layout(meshes.make_mesh(tensor=2)))
    assert_same(tree, expected())
    key = tree["layers"]["attention"]["key"]
    assert {shard.data.shape for shard in key.addressable_shards} == {(3, 16, 8)}


def test_the_tokenizer_is_found(directory):
    model = directory / "tokens.model"
    assert nemo.tokenizer_files(directory) == {"tokenizer.model": model}
    other = directory / "other.model"
    other.write_bytes(b"")
    found = nemo.tokenizer_files(directory)
    assert found == {"other.model": other, "tokens.model": model}


def test_all_wrong_arrays_are_named_at_once(directory):
    weights = directory / nemo.WEIGHTS
    bias = weights / "model.decoder.final_layernorm.bias"
    bias.rename(weights / "model.decoder.other")
    write_array(weights / "model.output_layer.weight", np.zeros((2, 2)))
    with pytest.raises(ValueError) as error:
        load(directory)
    text = str(error.value)
    assert "not the arrays of model_config.yaml, 3 differ" in text
    assert "decoder.final_layernorm.bias: missing, expected [16]" in text
    assert "output_layer.weight: [2, 2], expected [64, 16]" in text
    assert "decoder.other: [16], which the model has no place for" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalization": "rmsnorm"}, "normalization 'rmsnorm' is not supported"),
        ({"activation": "gelu"}, "activation 'gelu' is not supported"),
        ({"bias": True}, "bias True is not supported"),
        ({"num_layers": None}, "num_layers must be a positive integer, got None"),
        ({"hidden_size": "16"}, "hidden_size must be a positive integer, got '16'"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a positive"),
        ({"rotary_base": -1.0}, "rotary_base must be a positive number"),
        ({"position_embedding_type": "alibi"}, "position_embedding_type 'alibi'"),
        ({"rotary_interleaved": True}, "rotary_interleaved True"),
    ],
)
def test_a_model_of_another_kind_is_refused(directory, change, message):
    (directory / nemo.CONFIG).write_text(yaml.safe_dump(FIELDS | change))
    with pytest.raises(ValueError, match=message):
        load(directory)


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system ['true']", "[", "- a", None]
)
def test_a_config_that_is_no_plain_yaml_is_refused(directory, text):
    (directory / nemo.CONFIG).unlink()
    if text is not None:
        (directory / nemo.CONFIG).write_text(text)
    with pytest.raises(ValueError, match=r"model_config\.yaml"):
        load(directory)


def _member(name, **changes):
    member = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(member, key, value)
    return member


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (_member("/etc/owned"), "outside of the archive"),
        (_member("../owned"), "outside of the archive"),
        (_member("a/../../owned"), "outside of the archive"),
        (_member("link", type=tarfile.SYMTYPE, linkname="/etc"), "link or a device"),
        (_member("hard", type=tarfile.LNKTYPE, linkname="x"), "link or a device"),
        (_member("null", type=tarfile.CHRTYPE), "link or a device"),
        (_member("pipe", type=tarfile.FIFOTYPE), "link or a device"),
        (_member("/".join("a" * 4000)), "more than 50 folders"),
    ],
)
def test_a_hostile_archive_is_refused(tmp_path, member, message):
    path = tmp_path / "bad.nemo"
    with tarfile.open(path, "w") as archive:
        archive.addfile(member, io.BytesIO(b""))
    with pytest.raises(ValueError, match=message):
        load(path)
    assert sorted(os.listdir(tmp_path)) == ["bad.nemo"]


@pytest.mark.parametrize("name", sorted(nemo_files.arrays(random_params(CONFIG))))
def test_a_chunk_that_is_lost_is_not_zero(directory, name):
    """zarr would take the fill value for it."""
    folder = directory / nemo.WEIGHTS / name
    chunks = sorted(path for path in folder.iterdir() if path.name != ".zarray")
    chunks[len(chunks) // 2].unlink()
    with pytest.raises(UserError, match=rf"{name}: a chunk is missing or damaged"):
        load(directory)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_archive_is_whole_or_refused(directory, tmp_path, mode):
    """Flipped bits and missing ends; gzip's checksum stands behind the archive."""
    path = tmp_path / "model.nemo"
    with tarfile.open(path, mode) as archive:
        archive.add(directory, arcname=".")
    assert_same(load(path)[1], expected())
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [*rng.integers(len(whole) // 2, len(whole), 8), len(whole) - 3]
    for place in places:
        broken = bytearray(whole)
        broken[place] ^= 1
        for content in (bytes(broken), whole[:place]):
            path.write_bytes(content)
            with pytest.raises(UserError, match=r"model\.nemo") as error:
                load(path)
            assert "nemojax-" not in str(error.value)


def test_what_is_wrong_inside_of_an_archive_is_told_of_the_archive(directory, tmp_path):
    (directory / nemo.CONFIG).write_text("bias: true")
    path = tmp_path / "model.nemo"
    with tarfile.open(path, "w") as archive:
        archive.add(directory, arcname=".")
    with pytest.raises(UserError, match=rf"^{path}/model_config.yaml: bias True"):
        load(path)


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_ALLOWANCE_BYTES", 0)
    path = tmp_path / "bomb.nemo"
    with tarfile.open(path, "w:gz") as archive:
        size = 1 << 20
        archive.addfile(_member("zeros", size=size), io.BytesIO(bytes(size)))
    with pytest.raises(ValueError, match="unpacks to more than"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"no tar file", None])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "model.nemo"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.nemo"):
        load(path)

"""`.nemo` archives, made here in the released layout: in, and what is refused."""

import dataclasses
import io
import os
import tarfile

import jax
import ml_dtypes
import numpy as np
import pytest
import tensorstore
import yaml

from nemojax.interop import archives, nemo
from nemojax.parallel import mesh as meshes
from tests.interop.tiny import NEMOTRON, assert_same, random_params

CONFIG = dataclasses.replace(NEMOTRON, compute_dtype="bfloat16")
FIELDS = {
    "num_layers": 3,
    "hidden_size": 16,
    "ffn_hidden_size": 24,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "kv_channels": 8,
    "rotary_percentage": 0.5,
    "normalization": "layernorm1p",
    "activation": "squared-relu",
    "bias": False,
    "share_embeddings_and_output_weights": False,
    "layernorm_epsilon": 1e-5,
    "init_method_std": 0.0134,
}


def interleaved(attention, layer):
    """Megatron's matrix by a loop over groups: its queries, its key, its value."""
    query, key, value = (
        np.asarray(attention[name][layer]).T for name in ("query", "key", "value")
    )
    width = CONFIG.head_dim
    rows = []
    for group in range(CONFIG.num_kv_heads):
        rows += [query[2 * width * group : 2 * width * (group + 1)]]
        rows += [matrix[width * group : width * (group + 1)] for matrix in (key, value)]
    return np.concatenate(rows)


def arrays(params):
    """The arrays of the released layout, by full name."""
    layers = jax.tree.map(np.asarray, params["layers"])
    attention, mlp = layers["attention"], layers["mlp"]
    found = {
        "embedding.word_embeddings.weight": params["embedding"]["table"],
        "output_layer.weight": params["lm_head"]["kernel"],
        "decoder.final_layernorm.weight": params["final_norm"]["weight"],
        "decoder.final_layernorm.bias": params["final_norm"]["bias"],
        "decoder.layers.self_attention.linear_qkv.weight": np.stack(
            [interleaved(attention, layer) for layer in range(CONFIG.num_layers)]
        ),
        "decoder.layers.self_attention.linear_proj.weight": attention[
            "output"
        ].swapaxes(1, 2),
        "decoder.layers.mlp.linear_fc1.weight": mlp["up"].swapaxes(1, 2),
        "decoder.layers.mlp.linear_fc2.weight": mlp["down"].swapaxes(1, 2),
    }
    for ours, theirs in (
        ("attention_norm", "self_attention.linear_qkv.layer_norm_"),
        ("mlp_norm", "mlp.linear_fc1.layer_norm_"),
    ):
        for part in ("weight", "bias"):
            found[f"decoder.layers.{theirs}{part}"] = layers[ours][part]
    return {f"model.{name}": np.asarray(value) for name, value in found.items()}


def write_array(path, value):
    metadata = {
        "dtype": "bfloat16",
        "shape": list(value.shape),
        "chunks": [1, *value.shape[1:]],
    }
    store = tensorstore.open(
        {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": str(path)},
            "metadata": metadata,
            "create": True,
            "delete_existing": True,
        }
    ).result()
    store.write(value.astype(ml_dtypes.bfloat16)).result()


@pytest.fixture
def directory(tmp_path):
    """An unpacked checkpoint with a reward head of nine outputs."""
    path = tmp_path / "checkpoint"
    params = random_params(CONFIG, "bfloat16", 9)
    found = arrays(params)
    found["model.rm_head.weight"] = np.asarray(params["reward_head"]["kernel"]).T
    found["model.rm_head.bias"] = np.asarray(params["reward_head"]["bias"])
    for name, value in found.items():
        write_array(path / nemo.WEIGHTS / name, value)
    (path / nemo.WEIGHTS / "model.decoder.layers._extra_state").mkdir()
    (path / nemo.CONFIG).write_text(yaml.safe_dump(FIELDS))
    (path / "tokens.model").write_bytes(b"pieces")
    return path


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
    config, tree = nemo.load(request.getfixturevalue(kind))
    assert config == CONFIG
    assert_same(tree, expected())


def test_every_device_reads_its_own_shard(directory):
    _, tree = nemo.load(directory, meshes.make_mesh(tensor=2))
    assert_same(tree, expected())
    key = tree["layers"]["attention"]["key"]
    assert {shard.data.shape for shard in key.addressable_shards} == {(3, 16, 8)}


def test_the_tokenizer_is_found(directory):
    assert [path.name for path in nemo.tokenizer_files(directory)] == ["tokens.model"]


def test_all_wrong_arrays_are_named_at_once(directory):
    weights = directory / nemo.WEIGHTS
    bias = weights / "model.decoder.final_layernorm.bias"
    bias.rename(weights / "model.decoder.other")
    write_array(weights / "model.output_layer.weight", np.zeros((2, 2)))
    with pytest.raises(ValueError) as error:
        nemo.load(directory)
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
        ({"num_layers": None, "hidden_size": "16"}, "lacks num_layers, hidden_size"),
    ],
)
def test_a_model_of_another_kind_is_refused(directory, change, message):
    (directory / nemo.CONFIG).write_text(yaml.safe_dump(FIELDS | change))
    with pytest.raises(ValueError, match=message):
        nemo.load(directory)


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system ['true']", "[", "- a", None]
)
def test_a_config_that_is_no_plain_yaml_is_refused(directory, text):
    (directory / nemo.CONFIG).unlink()
    if text is not None:
        (directory / nemo.CONFIG).write_text(text)
    with pytest.raises(ValueError, match=r"model_config\.yaml"):
        nemo.load(directory)


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
    ],
)
def test_a_hostile_archive_is_refused(tmp_path, member, message):
    path = tmp_path / "bad.nemo"
    with tarfile.open(path, "w") as archive:
        archive.addfile(member, io.BytesIO(b""))
    with pytest.raises(ValueError, match=message):
        nemo.load(path)
    assert sorted(os.listdir(tmp_path)) == ["bad.nemo"]


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_ALLOWANCE_BYTES", 0)
    path = tmp_path / "bomb.nemo"
    with tarfile.open(path, "w:gz") as archive:
        size = 1 << 20
        archive.addfile(_member("zeros", size=size), io.BytesIO(bytes(size)))
    with pytest.raises(ValueError, match="unpacks to more than"):
        nemo.load(path)


@pytest.mark.parametrize("content", [b"", b"no tar file", None])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "model.nemo"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.nemo"):
        nemo.load(path)

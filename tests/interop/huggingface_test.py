"""Checkpoints of Nemotron and Llama: in, out, and what is wrong with bad ones."""

import dataclasses
import json
import shutil

import ml_dtypes
import numpy as np
import pytest

safetensors = pytest.importorskip("safetensors.numpy")

from nemojax.interop import huggingface, weights  # noqa: E402
from nemojax.parallel import mesh as meshes  # noqa: E402
from nemojax.parallel.layout import Layout  # noqa: E402
from tests.interop.tiny import (  # noqa: E402
    CONFIGS,
    LLAMA,
    NEMOTRON,
    assert_same,
    random_params,
)


@pytest.fixture
def saved(tmp_path):
    huggingface.save(tmp_path / "model", NEMOTRON, random_params(NEMOTRON))
    return tmp_path / "model"


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_out_and_in_again_is_the_same_model_bit_for_bit(tmp_path, name, dtype):
    config = dataclasses.replace(CONFIGS[name], compute_dtype=dtype)
    params = random_params(config, dtype)
    huggingface.save(tmp_path / "model", config, params)
    found, tree = huggingface.load(tmp_path / "model")
    assert found == config
    assert_same(tree, params)


def test_every_device_reads_its_own_shard(saved):
    mesh = meshes.make_mesh(tensor=2)
    _, tree = huggingface.load(saved, Layout(mesh))
    assert_same(tree, random_params(NEMOTRON))
    query = tree["layers"]["attention"]["query"]
    assert {shard.data.shape for shard in query.addressable_shards} == {(3, 16, 16)}


def test_files_are_cut_by_size_and_indexed(tmp_path):
    path = tmp_path / "model"
    huggingface.save(path, NEMOTRON, random_params(NEMOTRON), max_file_bytes=5000)
    files = sorted(path.glob("*.safetensors"))
    assert len(files) > 3
    index = json.loads((path / weights.INDEX).read_text())
    for file in files:
        tensors = safetensors.load_file(file)
        assert all(index["weight_map"][name] == file.name for name in tensors)
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 5000
    assert_same(huggingface.load(path)[1], random_params(NEMOTRON))


def test_a_linear_layer_is_stored_out_by_in(saved):
    tensors = safetensors.load_file(saved / weights.SINGLE)
    found = tensors["model.layers.2.self_attn.q_proj.weight"]
    query = random_params(NEMOTRON)["layers"]["attention"]["query"][2]
    np.testing.assert_array_equal(found, np.asarray(query).T)
    assert len(tensors) == 3 + 1 + 3 * (2 * 2 + 4 + 2)


def test_padding_of_the_vocabulary_is_left_out(tmp_path):
    params = random_params(NEMOTRON)
    huggingface.save(tmp_path / "model", NEMOTRON, params, vocab_size=61)
    config, tree = huggingface.load(tmp_path / "model")
    assert config == dataclasses.replace(NEMOTRON, vocab_size=61)
    for part, name in (("embedding", "table"), ("lm_head", "kernel")):
        np.testing.assert_array_equal(tree[part][name], params[part][name][:61])


@pytest.mark.filterwarnings("ignore:the tokenizer has no padding")
@pytest.mark.parametrize("width", [5, 9])
def test_a_reward_head_travels_with_the_model(tmp_path, width):
    params = random_params(NEMOTRON, num_attributes=width)
    huggingface.save(tmp_path / "model", NEMOTRON, params)
    _, tree = huggingface.load(tmp_path / "model")
    assert_same(tree, params)
    assert tree["reward_head"]["kernel"].shape == (16, width)


@pytest.mark.filterwarnings("ignore:the tokenizer has no padding")
def test_a_reward_model_needs_no_lm_head_a_language_model_does(tmp_path):
    params = random_params(NEMOTRON, num_attributes=5)
    headless = {name: leaf for name, leaf in params.items() if name != "lm_head"}
    huggingface.save(tmp_path / "model", NEMOTRON, headless)
    _, tree = huggingface.load(tmp_path / "model")
    assert_same(tree, headless)
    policy = {k: leaf for k, leaf in headless.items() if k != "reward_head"}
    with pytest.raises(ValueError, match=r"lm_head\.kernel: missing"):
        huggingface.save(tmp_path / "other", NEMOTRON, policy)


def _rewrite(path, change):
    tensors = safetensors.load_file(path / weights.SINGLE)
    change(tensors)
    safetensors.save_file(tensors, path / weights.SINGLE)


def test_all_wrong_tensors_are_named_at_once(saved):
    def spoil(tensors):
        del tensors["model.norm.bias"]
        tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((3, 4), np.float32)
        tensors["model.layers.0.mlp.gate_proj.weight"] = np.zeros((24, 16), np.float32)

    _rewrite(saved, spoil)
    with pytest.raises(ValueError) as error:
        huggingface.load(saved)
    text = str(error.value)
    assert "not the tensors of config.json, 3 differ" in text
    assert "model.norm.bias: missing, expected [16]" in text
    assert "model.layers.1.mlp.up_proj.weight: [3, 4], expected [24, 16]" in text
    assert "model.layers.0.mlp.gate_proj.weight: [24, 16], which the model" in text


def test_tied_embeddings_that_differ_in_the_files_are_two(tmp_path):
    """As in transformers: merged adapters leave such files behind."""
    tied = dataclasses.replace(NEMOTRON, tied_embeddings=True)
    huggingface.save(tmp_path / "model", tied, random_params(tied))
    table = np.asarray(random_params(tied)["embedding"]["table"])

    def add(head):
        change = {"lm_head.weight": head}
        _rewrite(tmp_path / "model", lambda tensors: tensors.update(change))
        return huggingface.load(tmp_path / "model")

    config, tree = add(table)
    assert config.tied_embeddings and "lm_head" not in tree
    config, tree = add(2 * table)
    assert not config.tied_embeddings
    np.testing.assert_array_equal(tree["lm_head"]["kernel"], 2 * table)
    with pytest.raises(ValueError, match=r"lm_head\.weight: \[63, 16\], expected"):
        add(table[:-1])


@pytest.mark.parametrize("layer", range(3))
@pytest.mark.parametrize("other", [np.float32, np.float16])
def test_layers_of_several_dtypes_lose_no_bit(tmp_path, layer, other):
    params = random_params(NEMOTRON, "bfloat16")
    huggingface.save(tmp_path / "model", NEMOTRON, params)
    name = f"model.layers.{layer}.mlp.up_proj.weight"
    value = (np.random.default_rng(1).normal(size=(24, 16)) * 1.001).astype(other)
    _rewrite(tmp_path / "model", lambda tensors: tensors.update({name: value}))
    with pytest.warns(UserWarning, match="up_proj.*are read as float32"):
        _, tree = huggingface.load(tmp_path / "model")
    expected = np.asarray(params["layers"]["mlp"]["up"], np.float32)
    expected[layer] = value.T
    np.testing.assert_array_equal(tree["layers"]["mlp"]["up"], expected)
    assert tree["layers"]["mlp"]["down"].dtype == "bfloat16"


def test_float16_goes_out_as_float16(tmp_path):
    """transformers loads in the dtype that config.json names."""
    huggingface.save(tmp_path / "model", NEMOTRON, random_params(NEMOTRON, "float16"))
    fields = json.loads((tmp_path / "model" / "config.json").read_text())
    assert fields["dtype"] == fields["torch_dtype"] == "float16"


def test_files_of_two_models_are_refused(saved):
    shutil.copy(saved / weights.SINGLE, saved / "other.safetensors")
    index = {"weight_map": {"model.norm.bias": "other.safetensors"}}
    (saved / weights.INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="names other files"):
        huggingface.load(saved)


def test_more_layers_than_tensors_are_refused_before_they_are_named(saved):
    path = saved / "config.json"
    change = {"num_hidden_layers": 10_000_000}
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="num_hidden_layers is 10,000,000"):
        huggingface.load(saved)


def test_old_rotary_buffers_are_passed_over(saved):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    _rewrite(saved, lambda tensors: tensors.update({name: np.ones(4, np.float32)}))
    assert_same(huggingface.load(saved)[1], random_params(NEMOTRON))


def test_nan_is_loaded_with_a_warning_that_names_the_tensor(saved):
    def spoil(tensors):
        tensors["model.norm.bias"][3] = np.nan

    _rewrite(saved, spoil)
    with pytest.warns(UserWarning, match=r"model\.norm\.bias holds NaN"):
        _, tree = huggingface.load(saved)
    assert np.isnan(tree["final_norm"]["bias"]).sum() == 1


def test_a_truncated_file_is_refused_by_name(saved):
    file = saved / weights.SINGLE
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors: no whole safetensors"):
        huggingface.load(saved)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"model.norm.bias": "other.safetensors"}, r"missing other\.safetensors"),
        ({"nothing": weights.SINGLE}, "not in the file it names: nothing"),
        ({"nothing": "../model.safetensors"}, "outside of its directory"),
        ([1], "no safetensors index"),
    ],
)
def test_a_wrong_index_is_refused(saved, weight_map, message):
    (saved / weights.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match=message):
        huggingface.load(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ("{", "no JSON"), ("[]", "no JSON object")],
)
def test_an_unreadable_config_is_refused(saved, content, message):
    (saved / "config.json").unlink()
    if content is not None:
        (saved / "config.json").write_text(content)
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        huggingface.load(saved)


def test_a_directory_in_use_is_not_written_to(saved):
    before = sorted(path.name for path in saved.iterdir())
    with pytest.raises(ValueError, match="exists and is not empty"):
        huggingface.save(saved, NEMOTRON, random_params(NEMOTRON))
    assert before == sorted(path.name for path in saved.iterdir())


def test_an_interrupted_save_leaves_no_checkpoint(tmp_path):
    def stop(done, total):
        if done == total // 2:
            raise KeyboardInterrupt

    path = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        huggingface.save(path, NEMOTRON, random_params(NEMOTRON), progress=stop)
    assert not path.exists()
    huggingface.save(path, NEMOTRON, random_params(NEMOTRON))
    assert_same(huggingface.load(path)[1], random_params(NEMOTRON))


def test_parameters_of_another_config_are_refused_by_name(tmp_path):
    params = random_params(NEMOTRON)
    with pytest.raises(ValueError, match=r"layers\.mlp\.gate: missing"):
        huggingface.save(tmp_path / "model", LLAMA, params)
    narrow = dataclasses.replace(NEMOTRON, d_ff=12)
    with pytest.raises(ValueError, match=r"mlp\.up: \[3, 16, 24\], expected"):
        huggingface.save(tmp_path / "model", narrow, params)
    assert not (tmp_path / "model").exists()


def test_bfloat16_is_a_dtype_of_the_files(tmp_path):
    params = random_params(NEMOTRON, "bfloat16")
    huggingface.save(tmp_path / "model", NEMOTRON, params)
    tensors = safetensors.load_file(tmp_path / "model" / weights.SINGLE)
    assert {t.dtype for t in tensors.values()} == {np.dtype(ml_dtypes.bfloat16)}

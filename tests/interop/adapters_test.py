"""Adapters as PEFT files: out, in, and what is wrong with bad ones."""

import dataclasses
import json

import jax
import numpy as np
import pytest

safetensors = pytest.importorskip("safetensors.numpy")

from nemojax.errors import UserError  # noqa: E402
from nemojax.interop import adapters  # noqa: E402
from nemojax.models import lora  # noqa: E402
from tests.interop.tiny import LLAMA, NEMOTRON, assert_same, random_params  # noqa: E402

LORA = lora.LoraConfig(rank=3, alpha=6.0, patterns=("attention/query", "mlp/*"))


def trained(config, adapted=LORA):
    rng = np.random.default_rng(0)
    fresh = lora.init(adapted, random_params(config), jax.random.key(0))
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), fresh)


@pytest.mark.parametrize("config", [NEMOTRON, LLAMA], ids=["nemotron", "llama"])
def test_out_and_in_again_are_the_same_adapters(tmp_path, config):
    adapters.save(tmp_path / "lora", config, LORA, trained(config))
    found, tree, replaced = adapters.load(tmp_path / "lora", config)
    assert not replaced and (found.rank, found.alpha) == (LORA.rank, LORA.alpha)
    assert found.names(random_params(config)) == list(tree)
    assert_same(jax.tree.map(np.asarray, tree), trained(config))


def test_the_layout_is_that_of_peft(tmp_path):
    adapters.save(tmp_path / "lora", LLAMA, LORA, trained(LLAMA), base="a/model")
    fields = json.loads((tmp_path / "lora" / adapters.CONFIG).read_text())
    assert fields["target_modules"] == ["down_proj", "gate_proj", "q_proj", "up_proj"]
    assert (fields["r"], fields["lora_alpha"]) == (3, 6.0)
    assert fields["base_model_name_or_path"] == "a/model"
    tensors = safetensors.load_file(tmp_path / "lora" / adapters.WEIGHTS)
    stem = "base_model.model.model.layers.2.mlp.down_proj"
    adapter = trained(LLAMA)["mlp/down"]
    a, b = (tensors[f"{stem}.lora_{part}.weight"] for part in "AB")
    assert (a.shape, b.shape) == ((3, 24), (16, 3))
    np.testing.assert_array_equal(b @ a, (adapter["a"][2] @ adapter["b"][2]).T)
    assert len(tensors) == 3 * 4 * 2


def test_adapters_of_another_model_are_refused_by_name(tmp_path):
    adapters.save(tmp_path / "lora", NEMOTRON, LORA, trained(NEMOTRON))
    wide = dataclasses.replace(NEMOTRON, d_ff=32)
    with pytest.raises(
        ValueError, match=r"up_proj\.lora_B\.weight: \[24, 3\], expected"
    ):
        adapters.load(tmp_path / "lora", wide)
    with pytest.raises(ValueError, match="no linear layers mlp/gate"):
        adapters.save(tmp_path / "other", NEMOTRON, LORA, trained(LLAMA))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported"),
        ({"task_type": "SEQ_CLS"}, "task_type 'SEQ_CLS'"),
        ({"r": "3"}, "r must be a positive integer, got '3'"),
        ({"r": True}, "r must be a positive integer"),
        ({"lora_alpha": None}, "lora_alpha must be a finite number"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a finite number"),
        ({"use_rslora": 1}, "use_rslora 1 is not supported"),
        ({"bias": None}, "bias None is not supported"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights 'loftq'"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights 'pissa_niter_16'"),
        ({"loftq_config": {"loftq_bits": 4}}, "loftq_config .* is not supported"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out True is not supported"),
        ({"megatron_config": {"a": 1}}, "megatron_config"),
        ({"anything": 0.5}, "anything 0.5 is not supported"),
        ({"target_modules": None}, "target_modules must be"),
        ({"target_modules": [1]}, "target_modules must be a list of names"),
        ({"layers_pattern": ["(?i)layers"]}, "layers_pattern .* is no pattern"),
        ({"target_modules": "("}, "target_modules '\\(' is no pattern"),
        ({"target_modules": "(a+)+b"}, ".*repeats a group"),
        ({"target_modules": ".*" * 9}, ".*more than 5 repetitions"),
        ({"rank_pattern": {"(x*)*": 3}}, "rank_pattern .* repeats a group"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern must be a positive integer"),
        ({"alpha_pattern": [1]}, "alpha_pattern must be an object"),
        ({"layers_to_transform": [0.5]}, "layers_to_transform must be a list"),
        ({"modules_to_save": ["score"]}, "modules_to_save 'score' is not supported"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_named(tmp_path, change, message):
    adapters.save(tmp_path / "lora", NEMOTRON, LORA, trained(NEMOTRON))
    path = tmp_path / "lora" / adapters.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=rf"adapter_config\.json: {message}"):
        adapters.load(tmp_path / "lora", NEMOTRON)


def test_a_choice_of_other_layers_than_the_file_holds_is_refused(tmp_path):
    """PEFT passes over tensors of modules that its config does not choose."""
    adapters.save(tmp_path / "lora", NEMOTRON, LORA, trained(NEMOTRON))
    path = tmp_path / "lora" / adapters.CONFIG
    change = {"exclude_modules": ["up_proj"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=r"up_proj\.lora_A.*no place"):
        adapters.load(tmp_path / "lora", NEMOTRON)


def test_a_directory_in_use_is_not_written_to(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not empty"):
        adapters.save(tmp_path, NEMOTRON, LORA, trained(NEMOTRON))

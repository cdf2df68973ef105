"""Adapters as PEFT files: out, in, and what is wrong with bad ones."""

import dataclasses
import json

import jax
import numpy as np
import pytest

safetensors = pytest.importorskip("safetensors.numpy")

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
    found, tree = adapters.load(tmp_path / "lora", config)
    assert (found.rank, found.alpha) == (LORA.rank, LORA.alpha)
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
    "change",
    [{"peft_type": "IA3"}, {"r": "3"}, {"target_modules": ".*"}, {"lora_alpha": None}],
)
def test_what_is_no_lora_is_refused(tmp_path, change):
    adapters.save(tmp_path / "lora", NEMOTRON, LORA, trained(NEMOTRON))
    path = tmp_path / "lora" / adapters.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"adapter_config\.json: no LoRA adapter"):
        adapters.load(tmp_path / "lora", NEMOTRON)


def test_a_directory_in_use_is_not_written_to(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not empty"):
        adapters.save(tmp_path, NEMOTRON, LORA, trained(NEMOTRON))

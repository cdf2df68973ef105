"""Adapters that PEFT saves give PEFT's logits, or are refused by the field's name."""

import functools
import json

import jax
import numpy as np
import pytest

from nemojax.interop import adapters, huggingface
from nemojax.models import forward, lora, trees
from tests.models import variants

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

TOKENS = np.arange(40).reshape(2, 20) % variants.LLAMA["vocab_size"]
QV = ["q_proj", "v_proj"]
# What is honoured: name -> settings of PEFT.
HONOURED = {
    "plain": {"target_modules": QV},
    "rslora": {"target_modules": QV, "use_rslora": True},
    "alpha_pattern": {
        "target_modules": QV,
        "alpha_pattern": {"q_proj": 24, r"layers\.1\.self_attn\.v_proj": 5},
    },
    "rank_pattern": {
        "target_modules": QV,
        "rank_pattern": {"v_proj": 7, "0.*q_proj": 2},
    },
    "all patterns with rslora": {
        "target_modules": QV,
        "use_rslora": True,
        "rank_pattern": {"^model.layers.1.*": 6},
        "alpha_pattern": {"q_proj": 3},
    },
    "all-linear": {"target_modules": "all-linear"},
    "regex": {"target_modules": r".*\.1\.(self_attn|mlp)\.(q_proj|up_proj)"},
    "dotted": {"target_modules": ["self_attn.q_proj", "mlp.down_proj"]},
    "one layer by name": {"target_modules": ["model.layers.0.self_attn.o_proj"]},
    "layers_to_transform": {"target_modules": QV, "layers_to_transform": [1]},
    "layers_pattern": {
        "target_modules": QV,
        "layers_to_transform": 0,
        "layers_pattern": "layers",
    },
    "layers_pattern from the root": {
        "target_modules": QV,
        "layers_to_transform": [1],
        "layers_pattern": ["(blocks)", "model.(layers)"],
    },
    "exclude_modules": {
        "target_modules": [*QV, "k_proj"],
        "exclude_modules": ["1.self_attn.v_proj", "k_proj"],
    },
    "exclude by regex": {"target_modules": QV, "exclude_modules": r".*\.0\..*"},
    "embedding and head": {
        "target_modules": QV,
        "modules_to_save": ["embed_tokens", "lm_head"],
    },
    "head alone": {"target_modules": QV, "modules_to_save": ["lm_head"]},
    "head saved, not adapted": {
        "target_modules": [*QV, "lm_head"],
        "modules_to_save": ["lm_head"],
    },
    "gaussian": {"target_modules": QV, "init_lora_weights": "gaussian"},
    "orthogonal": {"target_modules": QV, "init_lora_weights": "orthogonal"},
    "dropout": {"target_modules": QV, "lora_dropout": 0.5},
}
# What is refused: settings of PEFT, by the name of the field.
REFUSED = {
    "use_dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True},
    "bias": {"bias": "all"},
    "trainable_token_indices": {"trainable_token_indices": {"embed_tokens": [1, 2]}},
    "layer_replication": {"layer_replication": [[0, 2], [1, 2]]},
    "init_lora_weights": {"init_lora_weights": "pissa"},
    "init_lora_weights 'olora'": {"init_lora_weights": "olora"},
    "target_modules": {"target_modules": [*QV, "lm_head"]},
    "target_modules names model.embed": {"target_modules": [*QV, "embed_tokens"]},
    "modules_to_save": {"modules_to_save": ["norm"]},
}


@functools.cache
def base(tied=False):
    """Config and weights of the base model."""
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    fields = variants.LLAMA | {"tie_word_embeddings": tied, "initializer_range": 0.1}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields)).eval()


def adapted(path, tied=False, **settings):
    """Saves adapters that change the model; returns PEFT's logits when loaded again."""
    settings = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **settings}
    base(tied).save_pretrained(path / "base")
    load = functools.partial(
        transformers.LlamaForCausalLM.from_pretrained, path / "base"
    )
    model = peft.get_peft_model(load(), peft.LoraConfig(**settings))
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn_like(weight)
    model.save_pretrained(path / "adapters")
    again = peft.PeftModel.from_pretrained(load(), path / "adapters").eval()
    with torch.no_grad():
        return again(torch.tensor(TOKENS)).logits.numpy()


run = jax.jit(forward.logits, static_argnums=0)


def ours(path):
    """Our logits of the base model with the adapters merged."""
    config = huggingface.read_config(path / "base")
    leaves = huggingface.leaves(path / "base")
    config, leaves = adapters.merged(path / "adapters", config, leaves)
    return np.asarray(run(config, trees.build(leaves), TOKENS))


@pytest.mark.parametrize("name", HONOURED)
def test_logits_are_those_of_peft(tmp_path, name):
    expected = adapted(tmp_path, **HONOURED[name])
    plain = base()(torch.tensor(TOKENS)).logits.detach().numpy()
    assert np.abs(expected - plain).max() > 1e-3
    np.testing.assert_allclose(ours(tmp_path), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "saved", [["embed_tokens", "lm_head"], ["embed_tokens"], ["lm_head"]]
)
def test_tied_embeddings_come_apart_where_one_is_saved(tmp_path, saved):
    expected = adapted(tmp_path, True, target_modules=QV, modules_to_save=saved)
    np.testing.assert_allclose(ours(tmp_path), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_what_changes_the_result_otherwise_is_refused_by_name(tmp_path, name):
    adapted(tmp_path, **{"target_modules": QV, **REFUSED[name]})
    with pytest.raises(ValueError, match=rf"adapter_config\.json: {name}"):
        ours(tmp_path)


def test_pissa_that_peft_converted_is_read(tmp_path):
    """Its rank is twice as large, and the base model is the plain one again."""
    base().save_pretrained(tmp_path / "base")
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(r=4, target_modules=QV, init_lora_weights="pissa")
    model = peft.get_peft_model(model, settings)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = "pissa"
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn_like(weight)
    with torch.no_grad():
        expected = model(torch.tensor(TOKENS)).logits.numpy()
    model.save_pretrained(
        tmp_path / "adapters",
        path_initial_model_for_weight_conversion=str(tmp_path / "start"),
    )
    np.testing.assert_allclose(ours(tmp_path), expected, atol=1e-4)


def test_every_setting_of_peft_at_its_default_is_read(tmp_path):
    """A field that a later PEFT adds is null or false in files that do not use it."""
    adapted(tmp_path, target_modules=QV)
    file = tmp_path / "adapters" / "adapter_config.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps(fields | {"later": None, "use_later": False}))
    ours(tmp_path)
    file.write_text(json.dumps(fields | {"use_later": True}))
    with pytest.raises(ValueError, match="use_later True is not supported"):
        ours(tmp_path)


def test_peft_reads_what_is_saved(tmp_path):
    base().save_pretrained(tmp_path / "base")
    config, params = huggingface.load(tmp_path / "base")
    settings = lora.LoraConfig(rank=3, alpha=7.0, patterns=("attention/*", "mlp/up"))
    rng = np.random.default_rng(0)
    tree = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) * 0.2,
        lora.init(settings, params, jax.random.key(0)),
    )
    path = str(tmp_path / "base")
    adapters.save(tmp_path / "adapters", config, settings, tree, base=path)
    model = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapters")
    with torch.no_grad():
        expected = model(torch.tensor(TOKENS)).logits.numpy()
    found = np.asarray(run(config, lora.merge(params, tree, settings.scale), TOKENS))
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)

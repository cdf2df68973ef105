"""Writes checkpoints in the released layout of NeMo."""

import dataclasses

import jax
import ml_dtypes
import numpy as np
import tensorstore
import yaml

from nemojax.interop import nemo
from tests.interop.tiny import NEMOTRON, random_params

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


def write(path):
    """An unpacked checkpoint with a reward head of nine outputs."""
    params = random_params(CONFIG, "bfloat16", 9)
    found = arrays(params)
    found["model.rm_head.weight"] = np.asarray(params["reward_head"]["kernel"]).T
    found["model.rm_head.bias"] = np.asarray(params["reward_head"]["bias"])
    for name, value in found.items():
        write_array(path / nemo.WEIGHTS / name, value)
    (path / nemo.WEIGHTS / "model.decoder.layers._extra_state").mkdir()
    (path / nemo.CONFIG).write_text(yaml.safe_dump(FIELDS))
    (path / "tokens.model").write_bytes(b"pieces")

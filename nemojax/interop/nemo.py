"""Reads NeMo's `.nemo` checkpoints of Nemotron models.

The released layout: a tar file or a directory with `model_config.yaml`, a tokenizer
model, and `model_weights/` with one zarr array a parameter. Layers are stacked on
axis 0, and queries, keys and values are one matrix, interleaved by group: for each
key/value head its query heads, the key head, the value head.
"""

import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import tensorstore
import yaml

from nemojax.errors import UserError
from nemojax.interop import leaf_reader, names
from nemojax.interop import tokenizer_files as tokenizer_lib
from nemojax.models import forward, partition, trees
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout

CONFIG = "model_config.yaml"
WEIGHTS = "model_weights"
# What a reward model of NeMo gives, of which ours are the last five.
REWARD_OUTPUTS = 9
OUR_REWARD_OUTPUTS = 5
_MAX_CONFIG_BYTES = 1 << 20
_PREFIXES = ("model.", "module.")

_ATTENTION = "decoder.layers.self_attention."
_MLP = "decoder.layers.mlp."
_QKV = f"{_ATTENTION}linear_qkv.weight"
# Our leaf -> Megatron's name.
_NAMES = {
    ("embedding", "table"): "embedding.word_embeddings.weight",
    ("layers", "attention_norm", "weight"): f"{_ATTENTION}linear_qkv.layer_norm_weight",
    ("layers", "attention_norm", "bias"): f"{_ATTENTION}linear_qkv.layer_norm_bias",
    ("layers", "attention", "output"): f"{_ATTENTION}linear_proj.weight",
    ("layers", "mlp_norm", "weight"): f"{_MLP}linear_fc1.layer_norm_weight",
    ("layers", "mlp_norm", "bias"): f"{_MLP}linear_fc1.layer_norm_bias",
    ("layers", "mlp", "up"): f"{_MLP}linear_fc1.weight",
    ("layers", "mlp", "down"): f"{_MLP}linear_fc2.weight",
    ("final_norm", "weight"): "decoder.final_layernorm.weight",
    ("final_norm", "bias"): "decoder.final_layernorm.bias",
    ("lm_head", "kernel"): "output_layer.weight",
}
_REWARD = {"kernel": "rm_head.weight", "bias": "rm_head.bias"}


def read_config(directory: pathlib.Path) -> ModelConfig:
    """Reads the config of an unpacked checkpoint.

    Raises:
      UserError: there is no readable `model_config.yaml`, a field is missing, or the
        model is not supported.
    """
    path = directory / CONFIG
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise UserError(f"{path}: more than {_MAX_CONFIG_BYTES:,} bytes")
        fields = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{path}: holds no settings")
    for name, wanted in (
        ("normalization", "layernorm1p"),
        ("activation", "squared-relu"),
        ("bias", False),
    ):
        if fields.get(name, wanted) != wanted:
            raise UserError(
                f"{path}: {name} {fields[name]!r} is not supported, only {wanted!r}"
            )
    required = (
        "num_layers",
        "hidden_size",
        "ffn_hidden_size",
        "num_attention_heads",
    )
    missing = [name for name in required if not isinstance(fields.get(name), int)]
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}")
    heads = fields["num_attention_heads"]
    vocab_size = _Arrays(directory).shape(_NAMES["embedding", "table"])[0]
    return ModelConfig(
        vocab_size=vocab_size,
        num_layers=fields["num_layers"],
        d_model=fields["hidden_size"],
        num_heads=heads,
        num_kv_heads=fields.get("num_query_groups") or heads,
        head_dim=fields.get("kv_channels") or fields["hidden_size"] // heads,
        d_ff=fields["ffn_hidden_size"],
        rotary_fraction=fields.get("rotary_percentage", 0.5),
        rope_theta=float(fields.get("rotary_base", 10_000)),
        tied_embeddings=bool(fields.get("share_embeddings_and_output_weights", False)),
        norm_epsilon=fields.get("layernorm_epsilon", 1e-5),
        init_std=fields.get("init_method_std", 0.0134),
        max_positions=fields.get("max_position_embeddings", 4096),
    )


def tokenizer_files(directory: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the SentencePiece models of an unpacked checkpoint, by name.

    The only one is called `tokenizer.model`, several keep their names.
    """
    found = sorted(directory.glob("*.model"))
    if len(found) == 1:
        return {tokenizer_lib.MODEL: found[0]}
    return {path.name: path for path in found}


def split_qkv(
    qkv_RD: np.ndarray, num_heads: int, num_kv_heads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splits an interleaved matrix into those of queries, keys and values.

    Args:
      qkv_RD: [(heads + 2 kv_heads) * head_dim, D].
      num_heads: query heads of the model.
      num_kv_heads: key/value heads of the model.
    """
    width = qkv_RD.shape[1]
    queries = num_heads // num_kv_heads
    grouped = qkv_RD.reshape(num_kv_heads, queries + 2, -1, width)
    return (
        grouped[:, :queries].reshape(-1, width),
        grouped[:, queries].reshape(-1, width),
        grouped[:, queries + 1].reshape(-1, width),
    )


def leaves(
    directory: pathlib.Path,
    layout: Layout | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[trees.Path, jax.Array | np.ndarray]]:
    """Yields path and leaf of an unpacked checkpoint's parameters, one at a time.

    Without a layout they stay on the host.

    Raises:
      UserError: before the first leaf, for a model that is not supported, or arrays
        that are missing, too many or of another shape; all of them are named.
    """
    config = read_config(directory)
    if layout is not None:
        partition.check(config, layout)
    arrays = _Arrays(directory)
    shapes = forward.shapes(config)
    arrays.check(_expected(config, shapes))
    places = leaf_reader.shardings(shapes, layout)
    paths = [tensor.path for tensor in names.tensors(config)]
    for done, path in enumerate(paths):
        progress(done, len(paths))
        shape = trees.get(shapes, path).shape
        read = _reader(config, arrays, path, shape)
        yield path, leaf_reader.leaf(shape, read, trees.get(places, path))
    progress(len(paths), len(paths))
    if arrays.has(_REWARD["kernel"]):
        for name, theirs in _REWARD.items():
            value = arrays.read(theirs)
            if len(value) == REWARD_OUTPUTS:
                value = value[-OUR_REWARD_OUTPUTS:]
            read = value.T.__getitem__
            yield (
                ("reward_head", name),
                leaf_reader.leaf(value.T.shape, read, leaf_reader.everywhere(layout)),
            )


def _expected(config: ModelConfig, shapes: Any) -> dict[str, tuple[int, ...]]:
    expected = {}
    for tensor in names.tensors(config):
        if tensor.path not in _NAMES:
            continue
        shape = trees.get(shapes, tensor.path).shape
        if tensor.transposed:
            shape = (shape[0], shape[2], shape[1])
        expected[_NAMES[tensor.path]] = shape
    rows = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    return expected | {_QKV: (config.num_layers, rows, config.d_model)}


def _reader(
    config: ModelConfig, arrays: "_Arrays", path: trees.Path, shape: tuple[int, ...]
) -> Callable[[Any], np.ndarray]:
    """Reads a device's part of a leaf, a layer at a time."""
    module, name = path[-2:]
    matrix = module in ("attention", "mlp")
    part = {"query": 0, "key": 1, "value": 2}.get(name, 0)
    split = module == "attention" and name != "output"
    dtype = arrays.dtype(_QKV if split else _NAMES[path])

    def layer_of(layer: int) -> np.ndarray:
        if split:
            qkv = arrays.read(_QKV, layer)
            value = split_qkv(qkv, config.num_heads, config.num_kv_heads)[part]
        else:
            value = arrays.read(_NAMES[path], layer)
        return value.T if matrix else value

    def read(index: Any) -> np.ndarray:
        if path[0] != "layers":
            return arrays.read(_NAMES[path], index)
        return leaf_reader.stacked(
            shape, dtype, index, lambda layer, rest: layer_of(layer)[rest]
        )

    return read


class _Arrays:
    """The zarr arrays of an unpacked checkpoint, by name without NeMo's prefix."""

    def __init__(self, directory: pathlib.Path):
        self._paths: dict[str, pathlib.Path] = {}
        weights = directory / WEIGHTS
        for metadata in sorted(weights.glob("*/.zarray")):
            name = metadata.parent.name
            for prefix in _PREFIXES:
                name = name.removeprefix(prefix)
            if not name.endswith("_extra_state"):
                self._paths[name] = metadata.parent
        if not self._paths:
            raise UserError(f"{weights}: holds no zarr arrays")
        self._weights = weights
        self._open: dict[str, Any] = {}

    def has(self, name: str) -> bool:
        return name in self._paths

    def _store(self, name: str) -> Any:
        if name not in self._paths:
            raise UserError(f"{self._weights}: {name} is missing")
        if name not in self._open:
            kvstore = {"driver": "file", "path": str(self._paths[name])}
            try:
                opened = tensorstore.open({"driver": "zarr", "kvstore": kvstore})
                self._open[name] = opened.result()
            except ValueError as error:
                raise UserError(
                    f"{self._paths[name]}: no zarr array: {error}"
                ) from error
        return self._open[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._store(name).shape)

    def dtype(self, name: str) -> np.dtype:
        return self._store(name).dtype.numpy_dtype

    def read(self, name: str, index: Any = ...) -> np.ndarray:
        return self._store(name)[index].read().result()

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Raises ValueError naming all arrays that are not as expected."""
        found = {
            name: self.shape(name)
            for name in self._paths
            if name in expected or name not in _REWARD.values()
        }
        message = f"{self._weights}: not the arrays of {CONFIG}"
        names.require_same(message, expected, found)

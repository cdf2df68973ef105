"""Reads NeMo's `.nemo` checkpoints of Nemotron models.

The released layout: a tar file or a directory with `model_config.yaml`, a tokenizer
model, and `model_weights/` with one zarr array a parameter. Layers are stacked on
axis 0, and queries, keys and values are one matrix, interleaved by group: for each
key/value head its query heads, the key head, the value head.
"""

import math
import pathlib
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import tensorstore
import yaml

from nemojax.errors import UserError
from nemojax.interop import config_json, leaf_reader, names, weights
from nemojax.interop import tokenizer_files as tokenizer_lib
from nemojax.io import folders
from nemojax.models import forward, partition, trees
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout

CONFIG = "model_config.yaml"
WEIGHTS = "model_weights"
# What a reward model of NeMo gives, of which ours are the last five.
REWARD_OUTPUTS = 9
OUR_REWARD_OUTPUTS = 5
_MAX_CONFIG_BYTES = 1 << 20
_METADATA = ".zarray"
_MAX_CHUNK = 1 << 28  # numbers of a chunk that is larger than its array
# Settings of which only one value is supported; what is missing or null has it.
_SUPPORTED = {
    "normalization": "layernorm1p",
    "activation": "squared-relu",
    "bias": False,
    "position_embedding_type": "rope",
    "rotary_interleaved": False,
    "seq_len_interpolation_factor": 1,
    "transformer_block_type": "pre_ln",
    "normalize_attention_scores": True,
    "qk_layernorm": False,
    "num_moe_experts": 1,
    "window_size": False,
}
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
    text = folders.read_text(path, _MAX_CONFIG_BYTES)
    try:
        fields = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read: {why}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{path}: holds no settings")
    fields = {name: value for name, value in fields.items() if value is not None}
    for name, wanted in _SUPPORTED.items():
        if fields.get(name, wanted) != wanted:
            raise UserError(
                f"{path}: {name} {reprlib.repr(fields[name])} is not supported, only "
                f"{wanted!r}"
            )
    table = _Arrays(directory).shape(_NAMES["embedding", "table"])
    try:
        return _parse(fields, table[0] if table else 0)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _parse(fields: Mapping[str, Any], vocab_size: int) -> ModelConfig:
    integer, number = config_json.integer, config_json.number
    heads = integer(fields, "num_attention_heads")
    d_model = integer(fields, "hidden_size")
    config = ModelConfig(
        vocab_size=integer({"vocab_size": vocab_size}, "vocab_size"),
        num_layers=integer(fields, "num_layers"),
        d_model=d_model,
        num_heads=heads,
        num_kv_heads=integer(fields, "num_query_groups", heads),
        head_dim=integer(fields, "kv_channels", d_model // heads),
        d_ff=integer(fields, "ffn_hidden_size"),
        rotary_fraction=number(fields, "rotary_percentage", 0.5),
        rope_theta=number(fields, "rotary_base", 10_000),
        tied_embeddings=fields.get("share_embeddings_and_output_weights") is True,
        norm_epsilon=number(fields, "layernorm_epsilon", 1e-5),
        init_std=number(fields, "init_method_std", 0.0134),
        max_positions=integer(fields, "max_position_embeddings", 4096),
    )
    return config_json.checked(config)


def tokenizer_files(directory: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the SentencePiece models of an unpacked checkpoint, by name.

    The only one is called `tokenizer.model`, several keep their names.
    """
    found = sorted(path for path in directory.glob("*.model") if path.is_file())
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
    arrays.check(_expected(config, shapes), config.d_model)
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
        folder = directory / WEIGHTS
        for metadata in sorted(folder.glob(f"*/{_METADATA}")):
            name = metadata.parent.name
            for prefix in _PREFIXES:
                name = name.removeprefix(prefix)
            if not name.endswith("_extra_state"):
                self._paths[name] = metadata.parent
        if not self._paths:
            raise UserError(f"{folder}: holds no zarr arrays")
        self._weights = folder
        self._open: dict[str, Any] = {}

    def has(self, name: str) -> bool:
        return name in self._paths

    def _store(self, name: str) -> Any:
        if name not in self._paths:
            raise UserError(f"{self._weights}: {name} is missing")
        if name not in self._open:
            path = self._paths[name]
            folders.read_text(path / _METADATA, _MAX_CONFIG_BYTES)
            spec = {
                "driver": "zarr",
                "kvstore": {"driver": "file", "path": str(path)},
                "fill_missing_data_reads": False,  # else a lost chunk is zero
            }
            try:
                opened = tensorstore.open(spec).result()
            except ValueError as error:
                raise UserError(f"{path}: no zarr array: {_line(error)}") from error
            shape: Any = opened.chunk_layout.read_chunk.shape
            chunk = math.prod(shape)
            if chunk > max(math.prod(opened.shape), _MAX_CHUNK):
                raise UserError(f"{path}: chunks of {chunk:,} numbers")
            if opened.dtype.numpy_dtype not in weights.DTYPES:
                raise UserError(f"{path}: dtype {opened.dtype.name} is not supported")
            self._open[name] = opened
        return self._open[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._store(name).shape)

    def dtype(self, name: str) -> np.dtype:
        return self._store(name).dtype.numpy_dtype

    def read(self, name: str, index: Any = ...) -> np.ndarray:
        store = self._store(name)
        try:
            return store[index].read().result()
        except ValueError as error:
            raise UserError(
                f"{self._paths[name]}: a chunk is missing or damaged: {_line(error)}"
            ) from error

    def check(self, expected: Mapping[str, tuple[int, ...]], width: int) -> None:
        """Raises ValueError naming all arrays that are not as expected."""
        if self.has(_REWARD["kernel"]):
            outputs = self.shape(_REWARD["kernel"])[:1]
            expected = {
                **expected,
                _REWARD["kernel"]: (*outputs, width),
                _REWARD["bias"]: outputs,
            }
        found = {name: self.shape(name) for name in self._paths}
        message = f"{self._weights}: not the arrays of {CONFIG}"
        names.require_same(message, expected, found)


def _line(error: Exception) -> str:
    """Returns the beginning of a message as one line."""
    return " ".join(str(error).split())[:500]

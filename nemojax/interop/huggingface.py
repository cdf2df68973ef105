"""Hugging Face checkpoints of Nemotron and Llama models, in and out.

`load` reads each device's shard of each parameter straight from the files; `save`
writes one tensor at a time. Both keep the dtype: a checkpoint that goes in and out
comes back bit for bit.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from nemojax.data.text.tokenizer import Tokenizer
from nemojax.errors import UserError
from nemojax.interop import (
    classifier,
    config_json,
    leaf_reader,
    names,
    tokenizer_files,
    weights,
)
from nemojax.interop.names import Tensor
from nemojax.io import folders
from nemojax.models import forward, partition, trees
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout

CONFIG = "config.json"
_EMBEDDING, _LM_HEAD = "model.embed_tokens.weight", "lm_head.weight"
_MANY_LAYERS = 1000  # of which the missing tensors are not listed
MAX_FILE_BYTES = 5_000_000_000
# Buffers that old exports hold and that follow from the config.
_DERIVED = ("rotary_emb.inv_freq", "masked_bias", "attn.bias")

Progress = Callable[[int, int], None]


def load(
    directory: str | os.PathLike[str],
    layout: Layout | None = None,
    *,
    progress: Progress = lambda done, total: None,
) -> tuple[ModelConfig, Any]:
    """Reads a checkpoint.

    Args:
      directory: folder with `config.json` and safetensors; a sequence classifier is a
        reward model.
      layout: layout that the parameters get, as `models.partition` says; default: one
        device.
      progress: called with leaves done and all leaves.

    Returns:
      The config, and the parameter tree as `models.forward.init` makes it, in the
      dtypes of the files.

    Raises:
      UserError: no such checkpoint, a model that is not supported, or tensors that
        are missing, too many or of another shape; all of them are named.
    """
    config = read_config(directory)
    found = leaves(directory, layout or Layout(), progress=progress)
    return config, trees.build(found)


def read_config(directory: str | os.PathLike[str]) -> ModelConfig:
    """Returns the model that a checkpoint holds; raises ValueError as `load`.

    As in transformers, embeddings are not tied where the files hold two that differ.
    """
    directory = pathlib.Path(directory)
    path = directory / CONFIG
    fields = folders.read_json(path)
    try:
        config = config_json.from_json(fields)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if config.tied_embeddings and weights.are_in(directory):
        reader = weights.Reader(directory)
        both = {_EMBEDDING, _LM_HEAD} <= reader.shapes.keys()
        if both and not reader.same(_EMBEDDING, _LM_HEAD):
            return dataclasses.replace(config, tied_embeddings=False)
    return config


def leaves(
    directory: str | os.PathLike[str],
    layout: Layout | None = None,
    *,
    progress: Progress = lambda done, total: None,
) -> Iterator[tuple[trees.Path, jax.Array | np.ndarray]]:
    """Yields path and leaf of a checkpoint's parameters, the largest leaf first.

    All tensors' names and shapes are checked before the first leaf comes. Without a
    layout they stay on the host: memory is that of one leaf and a block of rows.
    Arguments and errors are otherwise those of `load`.
    """
    directory = pathlib.Path(directory)
    config = read_config(directory)
    if layout is not None:
        partition.check(config, layout)
    reader = weights.Reader(directory)
    if config.num_layers > max(_MANY_LAYERS, len(reader.shapes)):
        raise UserError(
            f"{directory / CONFIG}: num_hidden_layers is {config.num_layers:,}, the "
            f"files hold {len(reader.shapes):,} tensors"
        )
    judge = classifier.SCORE in reader.shapes
    outputs = reader.shapes[classifier.SCORE][0] if judge else 0
    shapes = forward.shapes(config, num_attributes=outputs)
    places = leaf_reader.shardings(shapes, layout)
    lm_head = not judge or _LM_HEAD in reader.shapes
    found = names.tensors(config, lm_head=lm_head, score=judge)
    _check(directory, config, shapes, found, reader)
    kept = classifier.unfold(directory, reader) if judge else {}
    found.sort(key=lambda tensor: trees.get(shapes, tensor.path).size, reverse=True)
    for done, tensor in enumerate(found):
        progress(done, len(found))
        shape, place = (trees.get(tree, tensor.path) for tree in (shapes, places))
        if tensor.path not in kept:
            yield tensor.path, _leaf(config, reader, tensor, shape.shape, place)
    for path, value in kept.items():
        place = trees.get(places, path)
        yield path, leaf_reader.leaf(value.shape, value.__getitem__, place)
    progress(len(found), len(found))


def save(
    directory: str | os.PathLike[str],
    config: ModelConfig,
    params: Any,
    tokenizer: Tokenizer | None = None,
    *,
    files: Mapping[str, pathlib.Path] = MappingProxyType({}),
    fields: Mapping[str, Any] = MappingProxyType({}),
    vocab_size: int | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
    progress: Progress = lambda done, total: None,
) -> None:
    """Writes a checkpoint that `transformers` reads.

    Everything is written beside the directory first, which then appears at once: a
    directory of that name is a whole checkpoint.

    Args:
      directory: must not exist, or be empty.
      config: sizes of the model.
      params: the tree; written in its dtypes. A leaf may have a method `load` that
        gives the array, which is then read only when it is written.
      tokenizer: written so that `AutoTokenizer` reads it.
      files: files copied beside the weights, by name: those of a tokenizer for one.
      fields: further fields of `config.json`, such as the ids of special tokens.
      vocab_size: rows of the embeddings that are written, without the padding that
        follows them; default: all.
      max_file_bytes: of one safetensors file.
      progress: called with tensors done and all tensors.

    Raises:
      UserError: Hugging Face has no such model, the tree is not the config's, or the
        directory is in use.
    """
    directory = folders.require_free(directory)
    rows = config.vocab_size if vocab_size is None else vocab_size
    if not 0 < rows <= config.vocab_size:
        raise UserError(f"vocab_size={rows} of a table of {config.vocab_size} rows")
    written = config_json.to_json(config) | {"vocab_size": rows, **fields}
    judge = "reward_head" in params
    found = names.tensors(config, lm_head=_has_lm_head(params), score=judge)
    _check_tree(config, params)
    head = None
    if judge:
        params, head = _as_classifier(params)
        outputs = len(head["bias"]["values"])
        written |= classifier.fields(written["model_type"], outputs)
        if tokenizer is not None:
            written.setdefault("pad_token_id", tokenizer.pad_id)
        classifier.check_padding(written)
    announced = {
        name: (shape, dtype)
        for tensor in found
        for name, shape, dtype in _announce(config, params, tensor, rows)
    }

    dtypes = {dtype for _, dtype in announced.values()}
    if np.dtype(np.float16) in dtypes:  # bfloat16 would round them
        written["dtype"] = written["torch_dtype"] = str(weights.widest(dtypes))

    def values() -> Iterator[tuple[str, np.ndarray]]:
        done = 0
        for tensor in found:
            for name, value in _values(config, params, tensor, rows):
                progress(done, len(announced))
                yield name, value
                done += 1

    with folders.appearing(directory) as partial:
        weights.write(partial, announced, values(), max_file_bytes)
        progress(len(announced), len(announced))
        if head is not None:
            folders.write_json(partial / classifier.FILE, head)
        if tokenizer is not None:
            tokenizer_files.write(partial, tokenizer, judge=judge)
        for name, file in files.items():
            (partial / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, partial / name)
        (partial / CONFIG).write_text(json.dumps(written, indent=2) + "\n")


def _as_classifier(params: Any) -> tuple[Any, dict[str, Any]]:
    """Returns the parameters with the head's bias in the norm; and both."""
    head = {k: np.asarray(_array(v)) for k, v in params["reward_head"].items()}
    norm = dict(params["final_norm"])
    bias = np.asarray(_array(norm["bias"])) if "bias" in norm else None
    bias, kept = classifier.fold(head, bias)
    if bias is not None:
        norm["bias"] = bias
    return {**params, "final_norm": norm, "reward_head": head}, kept


def _array(leaf: Any) -> Any:
    return leaf.load() if hasattr(leaf, "load") else leaf


def _their_shape(tensor: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    shape = shape[1:] if tensor.stacked else shape
    return shape[::-1] if tensor.transposed else shape


def _check(
    directory: pathlib.Path,
    config: ModelConfig,
    shapes: Any,
    found: list[Tensor],
    reader: weights.Reader,
) -> None:
    """Raises ValueError naming every tensor that is missing, too many or misshapen."""
    expected = {
        name: _their_shape(tensor, trees.get(shapes, tensor.path).shape)
        for tensor in found
        for name in tensor.names(config.num_layers)
    }
    ignored = _DERIVED + ((_LM_HEAD,) if config.tied_embeddings else ())
    found_shapes = {
        name: shape
        for name, shape in reader.shapes.items()
        if name in expected or not name.endswith(ignored)
    }
    message = f"{directory}: not the tensors of {CONFIG}"
    names.require_same(message, expected, found_shapes)


def _leaf(
    config: ModelConfig,
    reader: weights.Reader,
    tensor: Tensor,
    shape: tuple[int, ...],
    sharding: NamedSharding | None,
) -> jax.Array | np.ndarray:
    """Reads one leaf of our tree, every device's part by itself."""
    sources = tensor.names(config.num_layers)
    dtypes = {reader.dtypes[name] for name in sources}
    dtype = weights.widest(dtypes)
    if len(dtypes) > 1:
        warnings.warn(
            f"{tensor.name} is {' and '.join(sorted(map(str, dtypes)))}: all of its "
            f"layers are read as {dtype}",
            stacklevel=2,
        )

    def read(name: str, index: weights.Slices) -> np.ndarray:
        value = reader.read(name, index[::-1] if tensor.transposed else index)
        if weights.has_nan(value):
            warnings.warn(f"{name} holds NaN", stacklevel=2)
        return value.T if tensor.transposed else value

    def part(index: Any) -> np.ndarray:
        if not tensor.stacked:
            return read(sources[0], index).astype(dtype, copy=False)
        return leaf_reader.stacked(
            shape, dtype, index, lambda layer, rest: read(sources[layer], rest)
        )

    return leaf_reader.leaf(shape, part, sharding)


def _has_lm_head(params: Any) -> bool:
    """Returns whether a tree has an LM head or must: a reward model's need not."""
    return "lm_head" in params or "reward_head" not in params


def _check_tree(config: ModelConfig, params: Any) -> None:
    """Raises ValueError if the language model's tree is not the config's."""
    shapes = forward.shapes(config)
    if not _has_lm_head(params):
        shapes.pop("lm_head", None)
    wanted = jax.tree_util.tree_flatten_with_path(shapes)[0]
    have = {k: v for k, v in params.items() if k != "reward_head"}
    stored = jax.tree_util.tree_flatten_with_path(
        have, is_leaf=lambda value: hasattr(value, "load")
    )[0]
    found: dict[Any, Any] = dict(stored)
    problems = []
    for path, leaf in wanted:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        value = found.pop(path, None)
        if value is None:
            problems.append(f"{name}: missing, expected {list(leaf.shape)}")
        elif value.shape != leaf.shape:
            problems.append(f"{name}: {list(value.shape)}, expected {list(leaf.shape)}")
    problems += [
        f"{jax.tree_util.keystr(path, simple=True, separator='.')}: the config has none"
        for path in found
    ]
    if problems:
        raise UserError("the parameters are not the config's: " + "; ".join(problems))


def _rows(tensor: Tensor, rows: int) -> slice | None:
    """Returns which rows of a table are written, None where it is no table."""
    tables = (("embedding", "table"), ("lm_head", "kernel"))
    return slice(rows) if tensor.path in tables else None


def _announce(
    config: ModelConfig, params: Any, tensor: Tensor, rows: int
) -> Iterator[tuple[str, tuple[int, ...], np.dtype]]:
    """Yields name, shape and dtype of the tensors of a leaf."""
    leaf = trees.get(params, tensor.path)
    shape = _their_shape(tensor, leaf.shape)
    if _rows(tensor, rows):
        shape = (rows, *shape[1:])
    for name in tensor.names(config.num_layers):
        yield name, shape, np.dtype(leaf.dtype)


def _values(
    config: ModelConfig, params: Any, tensor: Tensor, rows: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields name and value of a leaf's tensors, one layer on the host at a time."""
    leaf = _array(trees.get(params, tensor.path))
    for layer, name in enumerate(tensor.names(config.num_layers)):
        value = np.asarray(leaf[layer] if tensor.stacked else leaf)
        if part := _rows(tensor, rows):
            value = value[part]
        yield name, value.T if tensor.transposed else value

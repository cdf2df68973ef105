"""LoRA adapters as files in the layout of PEFT, which other libraries load too."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from nemojax.errors import UserError
from nemojax.interop import adapter_config, names, weights
from nemojax.interop.adapter_config import CONFIG, AdapterConfig
from nemojax.io import folders
from nemojax.models import forward, trees
from nemojax.models import lora as lora_lib
from nemojax.models.config import ModelConfig
from nemojax.models.lora import LoraConfig

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_EMBEDDING, _HEAD = ("embedding", "table"), ("lm_head", "kernel")
# The modules without adapters, whose whole weight the files may hold instead.
_WHOLE = {"model.embed_tokens": _EMBEDDING, "lm_head": _HEAD}
Adapters = dict[str, dict[str, Any]]


class LoadedAdapters(NamedTuple):
    """Adapters that were read, and what else the files replace of the base model.

    Attributes:
      lora: settings of the adapters, with the one scale that all have.
      adapters: tree of the adapters, for `models.lora.attach` and `merge`.
      replaced: path in the parameter tree -> the parameter that replaces the base's.
    """

    lora: LoraConfig
    adapters: Adapters
    replaced: dict[trees.Path, np.ndarray]


def save(
    directory: str | os.PathLike[str],
    config: ModelConfig,
    lora: LoraConfig,
    adapters: Adapters,
    *,
    base: str = "",
) -> None:
    """Writes adapters; the directory appears when all of it is written.

    Args:
      directory: must not exist, or be empty.
      config: sizes of the base model.
      lora: choice of the adapted layers.
      adapters: adapters as `models.lora.init` makes them.
      base: name under which a user finds the base model.

    Raises:
      UserError: the directory is in use, or the base model has no such layers.
    """
    their_names = _their_names(config)
    unknown = [name for name in adapters if name not in their_names]
    if unknown:
        raise UserError(f"the model has no linear layers {', '.join(unknown)}")
    tensors = {}
    for name, adapter in adapters.items():
        for part, leaf in (("lora_A", adapter["a"]), ("lora_B", adapter["b"])):
            for layer, value in enumerate(np.asarray(leaf)):
                stem = _PREFIX + their_names[name].format(layer=layer)
                tensors[f"{stem}.{part}.weight"] = value.T
    modules = sorted(their_names[name].rsplit(".", 1)[-1] for name in adapters)
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": modules,
    }
    shapes = {name: (value.shape, value.dtype) for name, value in tensors.items()}
    with folders.appearing(directory) as partial:
        weights.write_file(partial / WEIGHTS, shapes, iter(tensors.items()))
        (partial / CONFIG).write_text(json.dumps(fields, indent=2) + "\n")


def load(directory: str | os.PathLike[str], config: ModelConfig) -> LoadedAdapters:
    """Reads adapters of a base model.

    Ranks that differ are filled up with zeros, and scales that differ are multiplied
    into `b`, so that all adapters have one rank and one scale here.

    Raises:
      UserError: no such adapters, a field of the config that is not supported, or
        tensors that are missing, too many or of another shape; all of them are named.
    """
    directory = pathlib.Path(directory)
    settings = adapter_config.read(directory / CONFIG)
    reader = weights.Reader(directory, [directory / WEIGHTS])
    their_names = _their_names(config)
    chosen = {
        name: [
            stem if settings.chooses(stem) else None
            for stem in (theirs.format(layer=i) for i in range(config.num_layers))
        ]
        for name, theirs in their_names.items()
    }
    chosen = {name: stems for name, stems in chosen.items() if any(stems)}
    whole = _whole(directory / CONFIG, settings)
    shapes = forward.shapes(config)
    expected = {
        f"{_PREFIX}{theirs}.weight": tuple(shapes["embedding"]["table"].shape)
        for theirs in whole
    }
    for name, stems in chosen.items():
        _, width, out = trees.get(shapes["layers"], tuple(name.split("/"))).shape
        for stem in filter(None, stems):
            rank = settings.rank_of(stem)
            expected[f"{_PREFIX}{stem}.lora_A.weight"] = (rank, width)
            expected[f"{_PREFIX}{stem}.lora_B.weight"] = (out, rank)
    names.require_same(
        f"{directory}: not this model's adapters", expected, reader.shapes
    )
    stems = [stem for stems in chosen.values() for stem in stems if stem]
    rank = max(map(settings.rank_of, stems), default=settings.rank)
    scale = settings.scale_of("") or 1.0
    adapters = {
        name: _adapter(reader, settings, stems, rank, scale)
        for name, stems in chosen.items()
    }
    found = LoraConfig(rank, scale * rank, tuple(chosen))
    replaced = {
        path: reader.read(f"{_PREFIX}{theirs}.weight") for theirs, path in whole.items()
    }
    return LoadedAdapters(found, adapters, replaced)


def merged(
    directory: str | os.PathLike[str],
    config: ModelConfig,
    leaves: Iterable[tuple[trees.Path, Any]],
) -> tuple[ModelConfig, Iterator[tuple[trees.Path, Any]]]:
    """Merges adapters into the parameters of their base model, a layer at a time.

    Args:
      directory: folder of the adapters.
      config: sizes of the base model.
      leaves: path and leaf of each parameter, on the host.

    Returns:
      The config of the merged model, and its leaves. Tied embeddings of which one is
      replaced are two.

    Raises:
      UserError: as `load`.
    """
    found = load(directory, config)
    untied = config.tied_embeddings and bool(found.replaced)

    def merge() -> Iterator[tuple[trees.Path, Any]]:
        for path, leaf in leaves:
            adapter = found.adapters.get("/".join(path[1:]))
            if path[0] == "layers" and adapter is not None:
                leaf = _merge(path, leaf, adapter, found.lora.scale)
            if untied and path == _EMBEDDING:
                yield _HEAD, found.replaced.get(_HEAD, leaf)
            yield path, found.replaced.get(path, leaf)
            del leaf

    if untied:
        config = dataclasses.replace(config, tied_embeddings=False)
    return config, merge()


def _merge(
    path: trees.Path, leaf: np.ndarray, adapter: dict[str, Any], scale: float
) -> np.ndarray:
    out = np.empty_like(leaf)
    name = "/".join(path[1:])
    for layer in range(len(leaf)):
        part = slice(layer, layer + 1)
        tree = trees.build([(path, leaf[part])])
        own = {key: value[part] for key, value in adapter.items()}
        out[part] = trees.get(lora_lib.merge(tree, {name: own}, scale), path)
    return out


def _adapter(
    reader: weights.Reader,
    settings: AdapterConfig,
    stems: list[str | None],
    rank: int,
    scale: float,
) -> dict[str, np.ndarray]:
    """Reads the adapter of one linear layer in all decoder layers, zero where none."""
    parts = []
    for stem in stems:
        if stem is None:
            parts.append(None)
            continue
        a, b = (reader.read(f"{_PREFIX}{stem}.lora_{x}.weight").T for x in "AB")
        factor = settings.scale_of(stem) / scale
        parts.append((a, b if factor == 1 else b.astype(np.float32) * factor))
    there = next(part for part in parts if part is not None)
    found = {}
    for which, leaf in enumerate("ab"):
        dtype = weights.widest(part[which].dtype for part in parts if part is not None)
        width, out = there[0].shape[0], there[1].shape[1]
        shape = (len(stems), width, rank) if leaf == "a" else (len(stems), rank, out)
        found[leaf] = np.zeros(shape, dtype)
        for layer, part in enumerate(parts):
            if part is not None:
                rows, columns = part[which].shape
                found[leaf][layer, :rows, :columns] = part[which]
    return found


def _whole(path: pathlib.Path, settings: AdapterConfig) -> dict[str, trees.Path]:
    """Returns their name -> our path of the modules whose whole weight is saved."""
    found = {}
    for name in settings.modules_to_save:
        theirs = next((t for t in _WHOLE if f".{t}".endswith(f".{name}")), None)
        if theirs is None:
            raise UserError(
                f"{path}: modules_to_save {name!r} is not supported; there are "
                f"{', '.join(t.rsplit('.', 1)[-1] for t in _WHOLE)}"
            )
        found[theirs] = _WHOLE[theirs]
    for theirs in _WHOLE:
        if theirs not in found and settings.chooses(theirs):
            raise UserError(
                f"{path}: target_modules names {theirs}, of which adapters are not "
                "supported"
            )
    return found


def _their_names(config: ModelConfig) -> dict[str, str]:
    """Returns our name of each linear layer -> theirs, with {layer}."""
    return {
        "/".join(tensor.path[1:]): tensor.name.removesuffix(".weight")
        for tensor in names.tensors(config)
        if tensor.transposed
    }

"""LoRA adapters as files in the layout of PEFT, which other libraries load too."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from nemojax.errors import UserError
from nemojax.interop import names, weights
from nemojax.io import folders
from nemojax.models import forward
from nemojax.models.config import ModelConfig
from nemojax.models.lora import LoraConfig

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
Adapters = dict[str, dict[str, Any]]


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
        for layer in range(config.num_layers):
            stem = _PREFIX + their_names[name].format(layer=layer)
            for part, leaf in (("lora_A", adapter["a"]), ("lora_B", adapter["b"])):
                tensors[f"{stem}.{part}.weight"] = np.asarray(leaf[layer]).T
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


def load(
    directory: str | os.PathLike[str], config: ModelConfig
) -> tuple[LoraConfig, Adapters]:
    """Reads adapters of a base model.

    Raises:
      UserError: no such adapters, or tensors that are missing, too many or of another
        shape; all of them are named.
    """
    directory = pathlib.Path(directory)
    fields = _read_fields(directory / CONFIG)
    reader = weights.Reader(directory, [directory / WEIGHTS])
    rank = fields["r"]
    modules = set(fields["target_modules"])
    chosen = {
        name: theirs
        for name, theirs in _their_names(config).items()
        if theirs.rsplit(".", 1)[-1] in modules
    }
    lora = LoraConfig(rank, float(fields["lora_alpha"]), tuple(chosen))
    layers = forward.shapes(config)["layers"]
    expected = {}
    for name, theirs in chosen.items():
        module, leaf = name.split("/")
        _, width, out = layers[module][leaf].shape
        for layer in range(config.num_layers):
            stem = _PREFIX + theirs.format(layer=layer)
            expected[f"{stem}.lora_A.weight"] = (rank, width)
            expected[f"{stem}.lora_B.weight"] = (out, rank)
    names.require_same(
        f"{directory}: not this model's adapters", expected, reader.shapes
    )
    found: Adapters = {}
    for name, theirs in chosen.items():
        stems = [_PREFIX + theirs.format(layer=i) for i in range(config.num_layers)]
        found[name] = {
            ours: jnp.stack([reader.read(f"{stem}.{part}.weight").T for stem in stems])
            for ours, part in (("a", "lora_A"), ("b", "lora_B"))
        }
    return lora, found


def _read_fields(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        fields = json.loads(path.read_text())
        ok = fields["peft_type"] == "LORA" and type(fields["r"]) is int
        ok = ok and isinstance(fields["target_modules"], list)
        float(fields["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no LoRA adapter: {error}") from error
    if not ok:
        raise UserError(f"{path}: no LoRA adapter with a list of target modules")
    return fields


def _their_names(config: ModelConfig) -> dict[str, str]:
    """Returns our name of each linear layer -> theirs, with {layer}."""
    return {
        "/".join(tensor.path[1:]): tensor.name.removesuffix(".weight")
        for tensor in names.tensors(config)
        if tensor.transposed
    }

"""The reference: one of our models as transformers and torch have it."""

import importlib
import pathlib
import tempfile
from typing import Any

from nemojax.interop import huggingface
from nemojax.models.config import ModelConfig


def torch() -> Any:
    """The library; it is no dependency of ours."""
    return importlib.import_module("torch")


def build(config: ModelConfig, params: Any) -> Any:
    """A float32 model of transformers with these parameters."""
    transformers = importlib.import_module("transformers")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model"
        huggingface.save(path, config, params)
        return transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=torch().float32, use_cache=False
        )

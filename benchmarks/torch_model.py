"""The reference: one of our models as transformers and torch have it."""

import importlib
import pathlib
import tempfile
from typing import Any

from nemojax.interop import config_json
from nemojax.models.config import ModelConfig


def torch() -> Any:
    """The library; it is no dependency of ours."""
    return importlib.import_module("torch")


def build(config: ModelConfig, params: Any) -> Any:
    """A float32 model of transformers with these parameters."""
    from nemojax.interop import huggingface  # which takes more libraries than the rest

    transformers = importlib.import_module("transformers")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model"
        huggingface.save(path, config, params)
        return transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=torch().float32, use_cache=False
        )


def device() -> str:
    """Returns where torch computes: "cuda" if it finds a GPU, else "cpu"."""
    return "cuda" if torch().cuda.is_available() else "cpu"


def device_name() -> str:
    """Returns the name of the device that torch computes on."""
    return torch().cuda.get_device_name() if device() == "cuda" else "cpu"


def wait(found: Any = None) -> None:
    """Waits for the GPU, if torch has one."""
    if device() == "cuda":
        torch().cuda.synchronize()


def random(config: ModelConfig, dtype: str) -> Any:
    """Returns a model of transformers with random weights, on `device`."""
    transformers = importlib.import_module("transformers")
    fields = config_json.to_json(config)
    found = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch().device(device()):
        return transformers.AutoModelForCausalLM.from_config(
            found, dtype=getattr(torch(), dtype), attn_implementation="sdpa"
        )

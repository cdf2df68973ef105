"""Low-rank adapters (LoRA, Hu et al. 2021) on the linear layers of the decoder.

An adapter adds `scale * x @ a @ b` to `x @ kernel`. The adapters are a tree of their
own, so that they alone can be trained, saved and left out: a model without them is the
base model bit for bit, which makes it the reference policy of DPO and RPO for free.
"""

import dataclasses
import fnmatch
from typing import Any

import jax
import jax.numpy as jnp

from nemojax.errors import UserError
from nemojax.models.layers import LORA_SUFFIXES, SCALE_SUFFIX

LINEAR = (
    "attention/query",
    "attention/key",
    "attention/value",
    "attention/output",
    "mlp/gate",
    "mlp/up",
    "mlp/down",
)


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Choice of the linear layers that are adapted, and how.

    Attributes:
      rank: width of the adapters.
      alpha: the adapters' sum is scaled by `alpha / rank`.
      patterns: shell patterns of names in `LINEAR`.
    """

    rank: int = 16
    alpha: float = 32.0
    patterns: tuple[str, ...] = ("*",)

    def __post_init__(self):
        if self.rank < 1:
            raise UserError(f"rank must be positive, got {self.rank}")

    @property
    def scale(self) -> float:
        """Factor of the low-rank product."""
        return self.alpha / self.rank

    def names(self, params: Any) -> list[str]:
        """Lists the linear layers of a parameter tree that the patterns match.

        Raises:
          UserError: a pattern that matches none.
        """
        there = [name for name in LINEAR if _has(params, name)]
        for pattern in self.patterns:
            if not fnmatch.filter(there, pattern):
                raise UserError(
                    f"pattern {pattern!r} matches no linear layer; there are "
                    f"{', '.join(there)}"
                )
        return [
            name
            for name in there
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns)
        ]


def init(lora: LoraConfig, params: Any, key: jax.Array) -> dict[str, Any]:
    """Initialises float32 adapters: `a` normal with variance 1 / in, `b` zero.

    Args:
      lora: choice of the layers.
      params: parameters of the base model, arrays or shapes.
      key: PRNG key.

    Returns:
      `{"attention/query": {"a": [L, in, rank], "b": [L, rank, out]}, ...}`; attached,
      the model still is the base model.
    """
    adapters = {}
    names = lora.names(params)
    for name, subkey in zip(names, jax.random.split(key, len(names)), strict=True):
        module, leaf = name.split("/")
        layers, width, out = params["layers"][module][leaf].shape
        a = jax.random.normal(subkey, (layers, width, lora.rank)) * width**-0.5
        adapters[name] = {"a": a, "b": jnp.zeros((layers, lora.rank, out))}
    return adapters


def attach(params: Any, adapters: dict[str, Any], scale: float) -> Any:
    """Attaches adapters to the parameter tree; the forward functions apply them.

    Differentiable in the adapters; the base leaves are the same arrays.

    Raises:
      UserError: adapters that are not those of this model.
    """
    _check(params, adapters)
    modules = {name: dict(leaves) for name, leaves in params["layers"].items()}
    for name, adapter in adapters.items():
        module, leaf = name.split("/")
        down, up = (f"{leaf}{suffix}" for suffix in LORA_SUFFIXES)
        modules[module] |= {down: adapter["a"], up: scale * adapter["b"]}
    return {**params, "layers": modules}


def merge(params: Any, adapters: dict[str, Any], scale: float) -> Any:
    """Adds the adapters to the kernels of the parameter tree.

    The sum is made in float32 and rounded to the kernel's dtype once.

    Raises:
      UserError: adapters that are not those of this model, or quantised kernels.
    """
    _check(params, adapters)
    modules = {name: dict(leaves) for name, leaves in params["layers"].items()}
    for name, adapter in adapters.items():
        module, leaf = name.split("/")
        kernel = modules[module][leaf]
        if leaf + SCALE_SUFFIX in modules[module]:
            raise UserError(f"{name} is quantised: merge first, or attach the adapter")
        product = jnp.matmul(adapter["a"], adapter["b"], precision="highest")
        merged = kernel.astype(jnp.float32) + scale * product
        modules[module][leaf] = merged.astype(kernel.dtype)
    return {**params, "layers": modules}


def _has(params: Any, name: str) -> bool:
    module, leaf = name.split("/")
    return leaf in params["layers"].get(module, {})


def _check(params: Any, adapters: dict[str, Any]) -> None:
    for name, adapter in adapters.items():
        if name not in LINEAR or not _has(params, name):
            raise UserError(f"the model has no linear layer {name!r}")
        module, leaf = name.split("/")
        layers, width, out = params["layers"][module][leaf].shape
        rank = adapter["a"].shape[-1]
        found = (adapter["a"].shape, adapter["b"].shape)
        if found != ((layers, width, rank), (layers, rank, out)):
            raise UserError(
                f"adapter of {name} has shapes {found[0]} and {found[1]}, its kernel "
                f"is {(layers, width, out)}"
            )

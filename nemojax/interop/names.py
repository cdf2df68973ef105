"""The name map: where each Hugging Face tensor lives in our parameter tree.

Nemotron and Llama use the same names; a config decides which of them exist. Linear
layers are stored [out, in] there and [in, out] here, and our layers are stacked.
"""

import dataclasses
from collections.abc import Mapping

from nemojax.errors import UserError
from nemojax.models.config import ModelConfig
from nemojax.models.trees import Path

_MOST_SHOWN = 500  # problems in one message


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One leaf of our tree and the tensors that it is made of.

    Attributes:
      path: keys of the leaf in our parameter tree.
      name: name of the tensor; holds "{layer}" if the leaf stacks one tensor a layer.
      transposed: whether the tensor is the transpose of our matrix.
    """

    path: Path
    name: str
    transposed: bool = False

    @property
    def stacked(self) -> bool:
        """True where the leaf's first dimension is the layer."""
        return "{layer}" in self.name

    def names(self, num_layers: int) -> list[str]:
        """Returns the tensors' names, in layer order."""
        if not self.stacked:
            return [self.name]
        return [self.name.format(layer=layer) for layer in range(num_layers)]


def tensors(
    config: ModelConfig, *, lm_head: bool = True, score: bool = False
) -> list[Tensor]:
    """Returns all leaves of a model, in the order of the forward pass.

    Args:
      config: sizes of the model.
      lm_head: whether the model has one; a reward model need not.
      score: whether it has the matrix of a reward head.
    """
    layer = "model.layers.{layer}."
    found = [Tensor(("embedding", "table"), "model.embed_tokens.weight")]
    found += _norm(config, ("layers", "attention_norm"), layer + "input_layernorm")
    for ours, theirs in zip(
        ("query", "key", "value", "output"), ("q", "k", "v", "o"), strict=True
    ):
        name = f"{layer}self_attn.{theirs}_proj.weight"
        found.append(Tensor(("layers", "attention", ours), name, transposed=True))
    name = layer + "post_attention_layernorm"
    found += _norm(config, ("layers", "mlp_norm"), name)
    gate = ("gate",) if config.activation == "swiglu" else ()
    for part in (*gate, "up", "down"):
        name = f"{layer}mlp.{part}_proj.weight"
        found.append(Tensor(("layers", "mlp", part), name, transposed=True))
    found += _norm(config, ("final_norm",), "model.norm")
    if lm_head and not config.tied_embeddings:
        found.append(Tensor(("lm_head", "kernel"), "lm_head.weight"))
    if score:
        found.append(Tensor(("reward_head", "kernel"), "score.weight", transposed=True))
    return found


def _norm(config: ModelConfig, path: Path, name: str) -> list[Tensor]:
    parts = ("weight",) if config.norm == "rmsnorm" else ("weight", "bias")
    return [Tensor((*path, part), f"{name}.{part}") for part in parts]


def shown(name: str) -> str:
    """Returns a name from a strange file as a part of a line."""
    return name if name.isprintable() and len(name) <= 200 else ascii(name[:200])


def require_same(
    message: str,
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
) -> None:
    """Checks the shapes of a checkpoint.

    Raises:
      UserError: `message`, and the tensors that are missing, too many or misshapen.
    """
    problems = []
    for name, shape in expected.items():
        if name not in found:
            problems.append(f"{name}: missing, expected {list(shape)}")
        elif found[name] != shape:
            problems.append(f"{name}: {list(found[name])}, expected {list(shape)}")
    problems += [
        f"{shown(name)}: {list(shape)}, which the model has no place for"
        for name, shape in found.items()
        if name not in expected
    ]
    if problems:
        more = len(problems) - _MOST_SHOWN
        rest = f"; and {more:,} more" if more > 0 else ""
        raise UserError(
            f"{message}, {len(problems)} differ: "
            f"{'; '.join(problems[:_MOST_SHOWN])}{rest}"
        )

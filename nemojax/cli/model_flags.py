"""Flags of the scripts that load a trained model to sample, score or measure it."""

import dataclasses
from typing import Any

import jax
from absl import flags

from nemojax.cli import dataclass_flags
from nemojax.interop import loading
from nemojax.interop.loading import LoadedModel
from nemojax.models import quantized
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout

FLAGS = flags.FLAGS
DTYPES = ("float32", "bfloat16", "float16")
MODEL_HELP = "model folder, folder of a run, or Hugging Face checkpoint"
TEMPLATE_HELP = (
    f"{loading.AUTO}: the model's own; {loading.NONE}, {', '.join(loading.TEMPLATES)}, "
    "or a Jinja file"
)


@dataclasses.dataclass(frozen=True)
class Mesh:
    """The mesh axes of a model that is not trained.

    Attributes:
      data: replicas of the model, each with its share of the rows; 0: all devices.
      tensor: devices that share each matrix.
    """

    data: int = 1
    tensor: int = 1


def define(
    mesh: Mesh, *, dtype: str | None = None, template: bool = True, kinds: bool = False
) -> None:
    """Defines the flags.

    Args:
      mesh: default sizes of the axes.
      dtype: default dtype of the computation; None: the model's.
      template: whether conversations are read or written.
      kinds: whether weights may be quantised.
    """
    flags.DEFINE_string("model", None, MODEL_HELP, required=True)
    flags.DEFINE_bool("verify", True, "compare a model folder with its checksums")
    if template:
        flags.DEFINE_string("template", loading.AUTO, TEMPLATE_HELP)
    flags.DEFINE_enum(
        "dtype", dtype, DTYPES, "dtype of the computation; default: the model's"
    )
    if kinds:
        flags.DEFINE_enum(
            "quantize", None, list(quantized.KINDS), "one-byte weights; default: none"
        )
    dataclass_flags.define("parallel", mesh)


def load(**options: Any) -> LoadedModel:
    """Loads the model that the flags name.

    Args:
      options: go to `loading.load`.

    Raises:
      UserError: it cannot be read, or there are too few devices.
    """
    for name in ("template", "quantize"):
        if name in FLAGS:
            options[name] = FLAGS[name].value
    axes = dataclass_flags.values("parallel")
    axes["data"] = axes["data"] or max(1, jax.device_count() // max(1, axes["tensor"]))
    layout = Layout(meshes.make_mesh(**axes))
    return loading.load(
        FLAGS.model, layout, dtype=FLAGS.dtype, verify=FLAGS.verify, **options
    )

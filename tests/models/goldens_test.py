"""Our logits are those that transformers gave; its answers are in testdata."""

import json

import jax
import ml_dtypes  # noqa: F401 (makes bfloat16 a dtype of numpy)
import numpy as np
import pytest

pytest.importorskip("safetensors")

from nemojax.interop import config_json, huggingface, names, weights
from nemojax.models import forward, trees
from tests.models import variants

pytestmark = pytest.mark.usefixtures("quick_compile")


def write_checkpoint(path, variant):
    """A checkpoint as transformers writes it, without transformers."""
    fields = variants.VARIANTS[variant]
    config = config_json.from_json(fields)
    shapes = forward.shapes(config)
    tensors = {}
    for tensor in names.tensors(config):
        shape = trees.get(shapes, tensor.path).shape
        shape = shape[1:] if tensor.stacked else shape
        shape = shape[::-1] if tensor.transposed else shape
        for name in tensor.names(config.num_layers):
            tensors[name] = variants.weight(variant, name, shape)
    announced = {name: (value.shape, value.dtype) for name, value in tensors.items()}
    weights.write(path, announced, iter(tensors.items()), 10**9)
    (path / "config.json").write_text(json.dumps(fields))


@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_logits_are_those_that_transformers_gave(tmp_path, variant):
    write_checkpoint(tmp_path, variant)
    config, params = huggingface.load(tmp_path)
    logits = jax.jit(forward.logits, static_argnums=0)
    found = logits(config, params, variants.TOKENS.astype(np.int32))
    with np.load(variants.GOLDENS) as goldens:
        np.testing.assert_allclose(found, goldens[variant], atol=2e-5)

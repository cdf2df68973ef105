"""Greedy answers are those of transformers; runs where torch is installed."""

import numpy as np
import pytest

from nemojax.inference.engine.config import EngineConfig
from nemojax.inference.engine.engine import Engine
from nemojax.inference.engine.sampling import Sampling
from nemojax.interop import huggingface
from nemojax.parallel import mesh as meshes
from tests.models import variants

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors")

pytestmark = pytest.mark.usefixtures("quick_compile")

NEW = 128
CONFIG = EngineConfig(
    slots=4,
    blocks=64,
    block_size=16,
    max_length=160,
    prefill_slots=2,
    chunk=8,
    tile=32,
)


def theirs(model, prompts):
    """Left-padded, all in one batch."""
    width = max(map(len, prompts))
    tokens = torch.zeros((len(prompts), width), dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    with torch.no_grad():
        found = model.generate(
            input_ids=tokens,
            attention_mask=mask,
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return found[:, width:].tolist()


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_greedy_answers_are_those_of_transformers(name, tmp_path):
    model = variants.reference(name)
    with torch.no_grad():  # sharper, so that rounding decides nothing
        model.get_output_embeddings().weight.mul_(8)
    model.save_pretrained(tmp_path)
    config, params = huggingface.load(tmp_path)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 62, size).tolist() for size in (3, 9, 17, 30, 1, 12)]
    engine = Engine(config, params, meshes.make_mesh(), CONFIG)
    found = engine.generate(prompts, Sampling(temperature=0, max_tokens=NEW))
    assert [one.tokens for one in found] == theirs(model, prompts)

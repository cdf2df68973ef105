"""What programs do on a GPU, from what is lowered and compiled for an absent one.

Small models with the widths of real heads. Most of it shows in what the compiler is
given; what it adds takes long to find out.
"""

import collections
import dataclasses
import functools
import importlib.util
import re

import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from nemojax.models import stages
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import LayoutSpec
from nemojax.planning import compiled, hardware, hlo, serving
from nemojax.planning.scenario import Scenario

GPU = (
    importlib.util.find_spec("jax_plugins.xla_cuda13") is not None
    if importlib.util.find_spec("jax_plugins")
    else False
)
pytestmark = pytest.mark.skipif(not GPU, reason="needs the extra aot")
H100 = hardware.get("h100")
NEMOTRON = ModelConfig(
    vocab_size=1024,
    num_layers=2,
    d_model=512,
    num_heads=4,
    num_kv_heads=2,
    head_dim=192,
    d_ff=1024,
)
LLAMA = dataclasses.replace(
    NEMOTRON, head_dim=128, rotary_fraction=1.0, norm="rmsnorm", activation="swiglu"
)
MODELS = pytest.mark.parametrize("config", [NEMOTRON, LLAMA], ids=["nemotron", "llama"])
NAMES = ("train", "prefill", "decode")


@functools.cache
def lowered(config: ModelConfig, name: str, remat: str = "selective"):
    """The program of that name for one H100; training with cuDNN's attention."""
    devices = compiled.topology(H100, 1)
    if name != "train":
        planned = serving.Serving(config, H100, rows=2, length=32)
        return serving.programs(planned, devices)[name]()
    spec = LayoutSpec(remat=remat, attention="cudnn")
    return compiled.lower(Scenario(config, H100, spec, 2, 256), spec.mesh(devices))


@pytest.fixture(autouse=True)
def hopper(monkeypatch):
    """Gives jax's checks, which ask the GPU that is there, the facts of an H100."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda least: True)


@MODELS
@pytest.mark.parametrize("name", NAMES)
def test_all_products_have_operands_of_the_compute_dtype(config, name):
    """Others run as TF32, at less than half the speed and twice the traffic."""
    products = re.findall(
        r"dot_general.*: \(tensor<[\dx]*x(\w+)>, tensor<[\dx]*x(\w+)>\)",
        lowered(config, name).as_text(),
    )
    assert len(products) > 4
    assert set(products) == {("bf16", "bf16")}


@MODELS
@pytest.mark.parametrize("name", NAMES)
def test_nothing_goes_to_the_host_or_comes_from_it(config, name):
    text = lowered(config, name).as_text()
    assert not re.findall(r"callback|infeed|outfeed|stablehlo\.(?:send|recv)", text)


@MODELS
@pytest.mark.parametrize("remat", stages.REMAT_POLICIES)
def test_attention_is_computed_again_only_where_its_output_is_not_kept(config, remat):
    """The layers are one loop forwards and one backwards, which call it once each."""
    calls = collections.Counter(
        re.findall(
            r"@__cudnn\$fmha\w*?Softmax(\w*)\(",
            lowered(config, "train", remat).as_text(),
        )
    )
    kept = stages.REMAT_POLICIES[remat]
    forwards = 1 if kept is None or "attention" in kept else 2
    assert calls == {"": forwards, "Backward": 1}


@MODELS
def test_attention_within_rows_of_one_segment_has_no_mask(config):
    """It would be an array of numbers [B, 1, S, S] that cuDNN reads."""
    calls = re.findall(r"@__cudnn\$fmha\w+", lowered(config, "train").as_text())
    assert calls and "Bias" not in "".join(calls)


@pytest.mark.slow
@MODELS
def test_decoding_makes_no_array_of_a_weights_size(config):
    """XLA concatenates at each token what products with the same input multiply by."""
    # The smallest kernel is that of attention's output; activations are smaller.
    least = 2 * config.num_heads * config.head_dim * config.d_model
    program = hlo.Program(lowered(config, "decode").compile().as_text())
    assert program.loops
    assert not program.large_loop_results(least)
    # A fusion that reads a weight through one makes no array, and is slow too.
    for name in program.loops:
        for one in program.computations[name]:
            assert one.opcode not in ("concatenate", "copy") or one.nbytes < least

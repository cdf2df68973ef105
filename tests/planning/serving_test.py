"""What fits where it answers: 340B in one-byte weights on eight devices of 80 GB."""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys

import jax
import pytest

from nemojax.inference.engine import paged
from nemojax.models import presets, quantized
from nemojax.parallel import mesh as meshes
from nemojax.planning import hardware, serving
from nemojax.planning.search import USABLE
from nemojax.planning.serving import Serving
from tests.models.conftest import TINY, random_params

H100 = hardware.get("h100")
EIGHT = Serving(presets.nemotron4_340b(), H100, "fp8", tensor=8, rows=32, length=4096)
GPU = (
    importlib.util.find_spec("jax_plugins.xla_cuda13") is not None
    if importlib.util.find_spec("jax_plugins")
    else False
)


@pytest.fixture(scope="module")
def found():
    """The plans of 340B on eight H100s by kind of weights."""
    return {
        weights: serving.result(dataclasses.replace(EIGHT, weights=weights))
        for weights in serving.WEIGHTS
    }


@pytest.mark.parametrize("weights", ["int8", "fp8"])
def test_340b_fits_eight_devices_of_80_gb(found, weights):
    memory = found[weights]["memory"]
    assert memory["fits"]
    assert max(memory["per_device_bytes"], memory["loading_bytes"]) < 80e9 * USABLE
    # At the most, both kernels of the MLPs are there in one byte a weight, and the
    # second, which is being quantised, in two more.
    assert memory["loading_bytes"] == pytest.approx(
        (2 + 1 + 1) * 96 * 18432 * 73728 / 8, rel=1e-3
    )
    # Two further times the text that is planned has room, in 80 decimal GB too.
    assert found[weights]["cache"]["tokens_that_fit"] > 3 * 32 * 4096


def test_340b_in_bfloat16_does_not(found):
    memory = found["bf16"]["memory"]
    assert not memory["fits"]
    assert memory["weights"] > 80e9
    assert found["bf16"]["cache"]["tokens_that_fit"] == 0
    assert "most of it weights (79.4 GiB)" in serving.too_large(found["bf16"])


def test_weights_are_counted_in_closed_form(found):
    """A byte a weight, four a scale, two what stays; heads and hidden split by 8."""
    layers, width, wide, vocabulary = 96, 18432, 73728, 256_000
    kv = 8 * 192
    kernels = layers * width * (2 * width + 2 * kv + 2 * wide) + vocabulary * width
    split_scales = layers * (width + 2 * kv + wide) + vocabulary
    whole = 4 * layers * 2 * width  # scales of the two that are summed
    norms = (layers * 4 + 2) * width * 2
    table = 2 * vocabulary * width
    assert found["fp8"]["memory"]["weights"] == (
        (kernels + 4 * split_scales + table) / 8 + whole + norms
    )


def test_the_cache_takes_what_its_tokens_take(found):
    assert found["fp8"]["cache"]["bytes_per_token"] == 2 * 96 * 192 * 2
    memory, cache = found["fp8"]["memory"], found["fp8"]["cache"]
    blocks = cache["tokens_used"] + 16  # one block is nobody's
    assert memory["cache"] == blocks * cache["bytes_per_token"]
    rest = memory["per_device_bytes"] - memory["cache"]
    full = rest + cache["tokens_that_fit"] * cache["bytes_per_token"]
    assert full <= USABLE * H100.memory_bytes < full + cache["bytes_per_token"]


@pytest.mark.parametrize("weights", ["bf16", "fp8"])
def test_the_engine_keeps_the_bytes_of_the_plan(weights):
    sizes = {"data": 2, "tensor": 2}
    planned = Serving(TINY, H100, weights, **sizes, rows=4, length=64)
    params = {k: v for k, v in random_params(TINY).items() if k != "reward_head"}
    if weights != serving.PLAIN:
        params = quantized.quantize(params, weights)
    mesh = meshes.make_mesh(**sizes)
    # Norms stay as they are stored, and the plan is for a checkpoint in one dtype.
    kept = paged.by_layer(TINY, params, mesh)
    state = paged.Programs(TINY, kept, mesh, planned.engine).start()

    def bytes_of(tree):
        return sum(
            leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree)
        )

    parts = serving.per_device(planned)
    assert bytes_of(kept) == parts["weights"]
    assert bytes_of(state) == parts["cache"] + parts["rows"]


@pytest.mark.parametrize("name", ["decode", "prefill"])
def test_a_program_writes_only_at_indices_that_are_promised_to_differ(name):
    """At others XLA's GPU programs write bfloat16 by compare-and-swap."""
    planned = Serving(TINY, H100, rows=4, length=32)
    text = serving.programs(planned, jax.devices()[:1])[name]().as_text()
    promises = re.findall(
        r"stablehlo\.scatter.*?unique_indices = (\w+)", text, re.DOTALL
    )
    assert len(promises) == text.count('stablehlo.scatter"') > 2 * TINY.num_layers
    assert set(promises) == {"true"}


@pytest.mark.slow
def test_the_programs_compile_and_take_the_bytes_of_the_plan():
    planned = Serving(TINY, H100, "int8", tensor=2, rows=2, length=32)
    found = serving.compile_programs(planned, jax.devices()[:2])
    parts = serving.per_device(planned)
    counted = parts["weights"] + parts["cache"] + parts["rows"]
    assert 0 <= found["decode"].arguments_bytes - counted < 2000
    told = serving.text(serving.result(planned, found))
    assert "Compiled decode in" in told and "Compiled prefill in" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "int4"}, "weights='int4' is not one of bf16, int8, fp8"),
        ({"tensor": 3}, "tensor=3 does not divide num_heads=4"),
        ({"data": 3}, "rows=32 does not divide over data=3"),
        ({"rows": 0}, "rows=0 must be positive"),
    ],
)
def test_what_cannot_be_served_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Serving(TINY, H100, **options)


@pytest.mark.slow
@pytest.mark.skipif(not GPU, reason="needs the extra aot")
def test_340b_compiles_for_eight_h100s_without_a_full_kernel():
    command = (
        sys.executable, "-m", "experiments.plan", "--serve=fp8",
        "--parallel.tensor=8", "--compile", "--json=-",
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kernel = 2 * 18432 * 73728 / 8
    for one in found["compiled"].values():
        assert one["temporary_bytes"] < kernel
        assert one["per_device_bytes"] < 55e9

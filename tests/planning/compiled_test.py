"""What the compiler finds, on fake devices; and of 340B on absent ones where it can."""

import importlib.util
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from nemojax.parallel.layout import LayoutSpec
from nemojax.planning import compiled, hardware, hlo, memory
from nemojax.planning.scenario import Scenario
from tests.models.conftest import TINY

H100 = hardware.get("h100")


@pytest.fixture(scope="module")
def found():
    """A pipelined step on eight devices of this machine."""
    spec = LayoutSpec(data=2, pipe=2, tensor=2, remat="full")
    scenario = Scenario(TINY, H100, spec, 16, 16)
    return scenario, compiled.compile_step(scenario, jax.devices()[:8])


def test_the_state_takes_the_bytes_of_the_estimate(found):
    """Parameters and moments to the byte; the batch and two counters come on top."""
    scenario, one = found
    parts = memory.per_device(scenario)
    batch = 3 * 4 * 16 * 16 / (scenario.spec.data * scenario.spec.pipe)
    state = parts["weights"] + parts["optimizer"]
    assert 0 <= one.arguments_bytes - state - batch < 64
    assert one.per_device_bytes == one.arguments_bytes + one.temporary_bytes


def test_the_exchanges_of_the_pipeline_are_found(found):
    _, one = found
    assert one.collectives["collective-permute"][0] == 2
    assert one.in_loops == {
        "all-gather": 6,
        "reduce-scatter": 5,
        "collective-permute": 2,
    }
    assert one.seconds > 0


def test_asynchronous_instructions_are_read_like_others():
    text = """\
HloModule m
%body (p: (f32[8])) -> (f32[8]) {
  %g = (f32[4]{0}, f32[8]{0}) all-gather-start(%x), dimensions={0}
  %d = f32[8]{0} all-gather-done(%g)
  %f = ((f32[1024]{0}), f32[2]{0}, u32[]) fusion-start(%y), calls=%fused
  ROOT %t = (f32[8]) tuple(%d)
}
%fused (p: f32[1024]) -> f32[2] {
  ROOT %s = f32[2]{0} slice(%p), slice={[0:2]}
}
ENTRY %main (a: f32[8]) -> f32[8] {
  %w = (f32[8]) while(%a), condition=%c, body=%body
  %r = bf16[2,8]{1,0} all-reduce(%w), to_apply=%sum
  ROOT %o = f32[8]{0} get-tuple-element(%w), index=0
}
"""
    program = hlo.Program(text)
    assert program.loops == {"body", "fused"}
    (inside,) = program.collectives(in_loops=True)
    assert (inside.opcode, inside.nbytes) == ("all-gather", 32)
    (outside,) = program.collectives(in_loops=False)
    assert (outside.opcode, outside.nbytes) == ("all-reduce", 32)
    assert [i.name for i in program.large_loop_results(32)] == ["g"]


def test_a_topology_that_does_not_exist_is_named():
    with pytest.raises(
        ValueError, match="12 devices are no whole number of nodes of 8"
    ):
        compiled.topology(H100, 12)
    with pytest.raises(
        ValueError, match="no known slice of 7 TPU v5p; there are 8, 16"
    ):
        compiled.topology(hardware.get("tpu_v5p"), 7)


GPU = (
    importlib.util.find_spec("jax_plugins.xla_cuda13") is not None
    if (importlib.util.find_spec("jax_plugins"))
    else False
)
TPU = importlib.util.find_spec("libtpu") is not None
PHASES = [(16, 768), (32, 1536), (64, 2304)]


def planned(**options):
    """The plan of a compiled 340B step, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "experiments.plan",
        "--compile",
        "--json=-",
        "--parallel.pipe=12",
        "--parallel.tensor=8",
        "--parallel.virtual_stages=8",
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not GPU, reason="needs the extra aot")
@pytest.mark.parametrize(("data", "batch"), PHASES)
@pytest.mark.parametrize(
    ("remat", "gibibytes"), [("full", 32), ("mlp_preactivation", 60)]
)
def test_the_phases_of_table_2_compile_for_h100s(data, batch, remat, gibibytes):
    options = {"parallel.data": data, "parallel.remat": remat, "global_batch": batch}
    found = planned(**options)
    assert found["compiled"]["per_device_bytes"] <= gibibytes * 2**30
    assert found["compiled"]["pipeline_problems"] == []
    np.testing.assert_allclose(
        found["memory"]["per_device_bytes"],
        found["compiled"]["per_device_bytes"],
        rtol=0.05,
    )


@pytest.mark.slow
@pytest.mark.skipif(not TPU, reason="needs the extra aot")
@pytest.mark.parametrize("data", [8, 16])
def test_340b_compiles_for_tpus(data):
    options = {"hardware": "tpu_v5p", "parallel.data": data, "parallel.remat": "full"}
    found = planned(**options, global_batch=768)
    assert found["devices"] == 96 * data
    assert found["compiled"]["per_device_bytes"] <= 95 * 2**30

"""Memory of a device that serves a model: weights, cache and working memory.

Weights and cache are counted on the shapes of the very arrays that the engine keeps
(`inference.paged`); working memory is an estimate, which `compile_programs` replaces by
the compiler's number. Nothing is allocated.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from nemojax.errors import UserError
from nemojax.inference.engine import paged, sampling
from nemojax.inference.engine.config import EngineConfig
from nemojax.inference.engine.paged_state import DecodeInput, PrefillChunk, Span
from nemojax.models import forward, partition, quantized
from nemojax.models.config import ModelConfig
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout
from nemojax.parallel.mesh import AXES
from nemojax.planning import compiled, counts, report
from nemojax.planning.compiled import Compiled
from nemojax.planning.hardware import Hardware
from nemojax.planning.search import USABLE

PLAIN = "bf16"
WEIGHTS = (PLAIN, *quantized.KINDS)
KINDS = {
    "weights": "all parameters, this device's share",
    "cache": "keys and values of all rows at full length",
    "rows": "where the rows are, tokens they have seen",
    "working_memory": "the larger of a decode step and a prefill call",
}
# Arrays [B, V] in float32 that sampling has at once: logits, those gathered, and what
# sorts and sums of them leave.
_OF_VOCABULARY = 5


@dataclasses.dataclass(frozen=True)
class Serving:
    """An engine that may never have run anywhere.

    Attributes:
      config: the model.
      hardware: one of its accelerators.
      weights: one of `WEIGHTS`.
      data, tensor: sizes of the mesh axes.
      rows: texts that are answered at a time.
      length: tokens of a text, prompt and answer.

    Raises:
      UserError: an unknown kind of weights, or sizes that do not divide; the message
        says what would do.
    """

    config: ModelConfig
    hardware: Hardware
    weights: str = PLAIN
    data: int = 1
    tensor: int = 1
    rows: int = 32
    length: int = 4096

    def __post_init__(self):
        if self.weights not in WEIGHTS:
            raise UserError(
                f"weights={self.weights!r} is not one of {', '.join(WEIGHTS)}"
            )
        for name in ("data", "tensor", "rows", "length"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be positive")
        if self.rows % self.data:
            raise UserError(f"rows={self.rows} does not divide over data={self.data}")
        partition.check(self.config, Layout(self.mesh))

    @functools.cached_property
    def mesh(self) -> Any:
        """A mesh that has sizes but no devices."""
        return AbstractMesh((self.data, 1, self.tensor), AXES)

    @functools.cached_property
    def engine(self) -> EngineConfig:
        """Sizes of the engine, with room for all rows at full length at once."""
        blocks = (
            -(-self.length // EngineConfig.block_size) * (self.rows // self.data) + 1
        )
        prefill = (
            -(-min(EngineConfig.prefill_slots, self.rows) // self.data) * self.data
        )
        return EngineConfig(
            self.rows, blocks, max_length=self.length, prefill_slots=prefill
        )

    @property
    def token_bytes(self) -> float:
        """Bytes per device of the keys and values of a token."""
        c = self.config
        item = np.dtype(c.compute_dtype).itemsize
        heads = c.num_kv_heads / self.tensor
        return 2.0 * item * c.num_layers * heads * c.head_dim

    def parameters(self, mesh: Any = None) -> Any:
        """Returns shapes of the parameters as the engine keeps them, with shardings."""
        return paged.by_layer(self.config, self.stored(), mesh or self.mesh)

    def stored(self) -> Any:
        """Returns shapes of the stacked parameters, in compute dtype or quantised."""
        params = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, self.config.compute_dtype),
            forward.shapes(self.config),
        )
        if self.weights == PLAIN:
            return params
        return quantized.quantize(params, self.weights)


def per_device(serving: Serving) -> dict[str, float]:
    """Returns bytes by kind, as `KINDS` explains them."""
    state = paged.state_shapes(serving.config, serving.mesh, serving.engine)
    cache = _bytes((state.keys, state.values))
    return {
        "weights": _bytes(serving.parameters()),
        "cache": cache,
        "rows": _bytes(state) - cache,
        "working_memory": max(_decoding(serving), _prefill(serving)),
    }


def loading_bytes(serving: Serving) -> float:
    """Returns a device's peak bytes while a checkpoint is loaded in compute dtype.

    Leaf by leaf, the largest first: in full, quantised, and what is there already; then
    leaf by leaf to trees for each layer.
    """
    layout = Layout(serving.mesh)
    c = dataclasses.replace(serving, weights=PLAIN)
    pairs = []
    for tree in (c.stored(), serving.stored()):
        specs = partition.param_specs(tree, layout)
        sizes: dict[str, float] = {}
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        for (path, leaf), spec in zip(leaves, jax.tree.leaves(specs), strict=True):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            sizes[name] = _shard(leaf, NamedSharding(serving.mesh, spec))
        pairs.append(sizes)
    full, kept = pairs
    there = peak = 0.0
    for name in sorted(full, key=full.__getitem__, reverse=True):
        changed = kept[name] != full[name]
        peak = max(peak, there + kept[name] + (full[name] if changed else 0.0))
        there += kept[name] + kept.get(f"{name}_scale", 0.0)
    of_layer = jax.tree.leaves(serving.parameters()["layers"][0])
    largest = max(_shard(leaf, leaf.sharding) for leaf in of_layer)
    return max(peak, there + serving.config.num_layers * largest)


def _bytes(tree: Any) -> float:
    return sum(_shard(leaf, leaf.sharding) for leaf in jax.tree.leaves(tree))


def _shard(leaf: Any, sharding: NamedSharding) -> float:
    """Returns the bytes of a leaf on each device."""
    return float(math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize)


def _decoding(serving: Serving) -> float:
    rows = serving.rows / serving.data
    return _OF_VOCABULARY * 4.0 * rows * serving.config.vocab_size


def _prefill(serving: Serving) -> float:
    """Estimates bytes of residual stream, the MLP's hidden layer, attention scores."""
    c, s = serving.config, serving.engine
    rows = s.prefill_slots / serving.data
    hidden = (2 if c.activation == "swiglu" else 1) * 6 * c.d_ff / serving.tensor
    scores = 2 * 4 * s.tile * c.num_heads / serving.tensor
    of_token = 6 * c.d_model + max(hidden, scores)
    head = _OF_VOCABULARY * 4.0 * rows * c.vocab_size
    return max(rows * s.chunk * of_token, head)


def compile_programs(
    serving: Serving, devices: list[Any] | None = None
) -> dict[str, Compiled]:
    """Compiles decoding and reading prompts for the hardware, or for `devices`.

    Raises:
      UserError: as `compiled.compile_step`.
    """
    if devices is None:
        count = serving.data * serving.tensor
        devices = compiled.topology(serving.hardware, count)
    return {
        name: compiled.measured(lower)
        for name, lower in programs(serving, devices).items()
    }


def programs(
    serving: Serving, devices: list[Any]
) -> dict[str, Callable[[], jax.stages.Lowered]]:
    """Returns what lowers decoding and reading prompts for devices."""
    mesh = meshes.make_mesh(serving.data, 1, serving.tensor, devices=devices)
    config, engine = serving.config, serving.engine
    params = serving.parameters(mesh)
    state = paged.state_shapes(config, mesh, engine)
    prefill, _, decode = paged.programs(config, mesh, engine, params)
    decode_input, chunk = _inputs(engine, mesh)
    return {
        "decode": lambda: decode.lower(params, state, decode_input),
        "prefill": lambda: prefill.lower(params, state, chunk),
    }


def _inputs(engine: EngineConfig, mesh: Mesh) -> tuple[Any, Any]:
    """Returns the shapes of the inputs of `decode` and `prefill`."""
    slots, prompts, flags = engine.slots, engine.prefill_slots, bool
    sharding = NamedSharding(mesh, PartitionSpec("data"))

    def array(*shape: int, dtype: Any = np.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def settings(count: int) -> Any:
        found = sampling.settings([None] * count)
        return jax.tree.map(lambda x: array(*x.shape, dtype=x.dtype), found)

    decode_input = DecodeInput(
        array(slots, dtype=flags),
        array(slots, engine.width),
        array(mesh.shape["data"]),
        settings(slots),
    )
    tokens, number = array(prompts, engine.chunk), array(prompts)
    span = Span(tokens, number, number, array(prompts, engine.width))
    last = array(prompts, dtype=flags)
    return decode_input, PrefillChunk(span, tokens, number, last, settings(prompts))


def result(
    serving: Serving, found: Mapping[str, Compiled] | None = None
) -> dict[str, Any]:
    """Returns everything that is known, for programs.

    Args:
      serving: server of the plan.
      found: report of the compiler, if it ran.
    """
    parts, device = per_device(serving), serving.hardware.memory_bytes
    if found:
        parts["working_memory"] = float(max(p.temporary_bytes for p in found.values()))
    memory = report.memory_result(parts, serving.hardware)
    memory["loading_bytes"] = loading = loading_bytes(serving)
    memory["fits"] &= loading <= USABLE * device
    room = USABLE * device - memory["per_device_bytes"] + parts["cache"]
    tokens = max(0, math.floor(room / serving.token_bytes)) * serving.data
    read = parts["weights"] + parts["cache"]
    seconds = read / serving.hardware.memory_bandwidth
    return {
        "hardware": serving.hardware.title,
        "devices": serving.data * serving.tensor,
        "layout": {
            name: getattr(serving, name)
            for name in ("weights", "data", "tensor", "rows", "length")
        },
        "parameters": counts.parameters(serving.config).to_json(),
        "memory": memory,
        "cache": {
            "bytes_per_token": serving.token_bytes,
            "tokens_used": serving.rows * serving.length,
            "tokens_that_fit": tokens,
        },
        "prediction": {
            "least_step_seconds": seconds,
            "most_tokens_per_second": serving.rows / seconds,
        },
        "compiled": {
            name: report.compiled_result(one) for name, one in (found or {}).items()
        },
    }


def text(found: Mapping[str, Any]) -> str:
    """Returns the plan for a terminal."""
    memory, cache = found["memory"], found["cache"]
    layout = ", ".join(f"{name}={value}" for name, value in found["layout"].items())
    estimate = "" if found["compiled"] else ", working memory estimated"
    lines = [
        f"{found['parameters']['total']:,} parameters, to be served",
        f"{found['devices']:,} x {found['hardware']}: {layout}",
        "",
        f"Memory of a device (GiB{estimate})",
        *report.memory_lines(memory, KINDS),
        f"  {'while loading':<16} {memory['loading_bytes'] / report.GIB:8.2f} "
        "at the most, before there is a cache",
        "",
        f"Cache: {cache['bytes_per_token']:,.0f} bytes a token and device; "
        f"{cache['tokens_used']:,} tokens planned, {cache['tokens_that_fit']:,} fit",
    ]
    prediction = found["prediction"]
    lines.append(
        f"Decoding reads weights and full texts in "
        f"{1e3 * prediction['least_step_seconds']:.1f} ms at the published bandwidth: "
        f"at most {prediction['most_tokens_per_second']:,.0f} tokens/s (a bound and no "
        "prediction)"
    )
    for name, one in found["compiled"].items():
        lines.append(
            f"Compiled {name} in {one['seconds']} s: "
            f"{one['arguments_bytes'] / report.GIB:.2f} GiB weights, cache and rows, "
            f"{one['temporary_bytes'] / report.GIB:.2f} temporary"
        )
    return "\n".join(lines)


def too_large(found: Mapping[str, Any]) -> str:
    """Explains by how much a plan does not fit, and why."""
    memory = found["memory"]
    room = USABLE * memory["device_bytes"]
    if memory["per_device_bytes"] > room:
        return report.over(memory, KINDS)
    more = (memory["loading_bytes"] - room) / report.GIB
    return f"does not fit: {more:.1f} GiB too much on each device while loading"

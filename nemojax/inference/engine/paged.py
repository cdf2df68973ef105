"""The model over a key/value cache in blocks: compiled programs and their placement.

Prefill runs a chunk of some prompts, decode a few tokens of all sequences. Their shapes
are fixed by `EngineConfig`, and the keys of a sequence are read in tiles, as many as
the longest one needs: nothing is compiled again for longer sequences, and the numbers
of a sequence do not depend on its neighbours.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nemojax.errors import UserError
from nemojax.inference.engine import paged_steps
from nemojax.inference.engine.config import EngineConfig
from nemojax.inference.engine.paged_state import (
    PromptLogProbs,
    State,
    StepOutput,
    TopTokens,
)
from nemojax.interop.loading import LoadedModel
from nemojax.models import layers, partition, quantized
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout

_SLOTS = PartitionSpec("data")
_CACHE = PartitionSpec("data", "tensor")
_STATE_SPECS = State(_CACHE, _CACHE, *(_SLOTS,) * 5)


class Programs:
    """The device programs of a model on a mesh.

    Slots, blocks and the numbers in block tables are each shard's own along `data`:
    slot s of `config.slots` belongs to shard `s // (slots / data)`.

    Attributes:
      prefill: (state, chunk) -> (state, StepOutput with steps = 1, a column a chunk).
      prefill_with_log_probs: program like `prefill`, with `PromptLogProbs` as its third
        output.
      decode: (state, inputs) -> (state, StepOutput). All consume the given state.
    """

    def __init__(
        self, config: ModelConfig, params: Any, mesh: Mesh, engine: EngineConfig
    ):
        """Places the parameters; programs are compiled at their first call.

        Args:
          config: sizes.
          params: parameters as `models.forward.init` makes them, or of `by_layer`; kept
            in the compute dtype, quantised kernels in theirs.
          mesh: `data` splits the slots, `tensor` the heads.
          engine: static shapes.

        Raises:
          UserError: a mesh with a pipeline, slots that `data` does not divide, heads
            that `tensor` does not, or a tile of broken blocks.
        """
        if mesh.shape["pipe"] != 1:
            raise UserError(f"inference needs pipe=1, got {mesh.shape['pipe']}")
        engine.check(mesh.shape["data"])
        self._start = functools.partial(_start, config, engine, mesh)
        if isinstance(params["layers"], dict):
            params = by_layer(config, params, mesh)
        self.prefill, self.prefill_with_log_probs, self.decode = (
            functools.partial(program, params)
            for program in programs(config, mesh, engine, params)
        )

    def start(self) -> State:
        """Makes the state without any sequence."""
        return self._start()


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _start(config: ModelConfig, engine: EngineConfig, mesh: Mesh) -> State:
    shardings = State(*(NamedSharding(mesh, spec) for spec in _STATE_SPECS))
    state = _empty(config, engine, mesh)
    return State(
        *(
            jax.tree.map(
                lambda x, s=sharding: jax.lax.with_sharding_constraint(x, s), part
            )
            for part, sharding in zip(state, shardings, strict=True)
        )
    )


def programs(
    config: ModelConfig, mesh: Mesh, engine: EngineConfig, params: Any
) -> tuple[Any, Any, Any]:
    """Makes the programs of `Programs`, with the parameters as their first argument.

    Equal arguments give the same programs, so that a second engine of the same shapes
    compiles nothing.

    Args:
      config: sizes.
      mesh: devices that the programs run on.
      engine: static shapes.
      params: arrays or shapes, of `by_layer`.

    Returns:
      Prefill, prefill with log-probs and decode, not compiled yet.
    """
    specs, tree = jax.tree.flatten(_specs(params))
    return _programs(config, mesh, engine, tuple(specs), tree)


@functools.lru_cache(maxsize=32)
def _programs(
    config: ModelConfig, mesh: Mesh, engine: EngineConfig, specs: Any, tree: Any
) -> tuple[Any, Any, Any]:
    column = PartitionSpec(None, "data")
    output = StepOutput(column, column, column, TopTokens(column, column))
    log_probs = PromptLogProbs(_SLOTS, TopTokens(_SLOTS, _SLOTS))

    def program(function, *outputs):
        mapped = jax.shard_map(
            functools.partial(function, config, engine),
            mesh=mesh,
            in_specs=(jax.tree.unflatten(tree, specs), _STATE_SPECS, _SLOTS),
            out_specs=(_STATE_SPECS, *outputs),
            # Each shard of `data` reads as many tiles as its own sequences need.
            check_vma=False,
        )
        return jax.jit(mapped, donate_argnums=1)

    return (
        program(paged_steps.prefill, output),
        program(paged_steps.prefill_with_log_probs, output, log_probs),
        program(paged_steps.decode, output),
    )


def state_shapes(config: ModelConfig, mesh: Mesh, engine: EngineConfig) -> State:
    """Returns the shapes and shardings of what `Programs.start` makes."""
    state = jax.eval_shape(functools.partial(_empty, config, engine, mesh))
    return State(
        *(
            _placed(part, jax.tree.map(lambda _, spec=spec: spec, part), mesh)
            for part, spec in zip(state, _STATE_SPECS, strict=True)
        )
    )


def _empty(config: ModelConfig, engine: EngineConfig, mesh: Mesh) -> State:
    c, s = config, engine
    blocks = s.blocks * mesh.shape["data"]

    def cache():
        shape = (blocks, c.num_kv_heads, s.block_size, c.head_dim)
        return tuple(jnp.zeros(shape, c.compute_dtype) for _ in range(c.num_layers))

    token, length, count = (jnp.zeros(s.slots, jnp.int32) for _ in range(3))
    seen = jnp.zeros((s.slots, c.vocab_size), bool)
    done = jnp.ones(s.slots, bool)
    return State(cache(), cache(), token, length, count, done, seen)


def _placed(tree: Any, specs: Any, mesh: Mesh) -> Any:
    """Adds shardings to shapes."""
    return jax.tree.map(
        lambda leaf, spec: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec)
        ),
        tree,
        specs,
    )


def by_layer(
    config: ModelConfig, params: Any, mesh: Mesh, *, donate: bool = False
) -> Any:
    """Splits stacked parameters into a tree for each layer, in the compute dtype.

    Stacked, each layer's would be copied out of the stack at each token; and kernels
    with the same input are joined, which a GPU's compiler would do at each token.

    Args:
      config: sizes.
      params: parameters as `models.forward.init` makes them, or their shapes.
      mesh: devices that the parameters go to.
      donate: splits leaf by leaf (those that are joined together) and deletes the
        stacked ones, so that the weights are never there twice.
    """

    def placed(params):
        """Splits a whole tree or some branches."""
        found = jax.eval_shape(functools.partial(_split, config, mesh), params)
        specs = _specs(found)
        if isinstance(jax.tree.leaves(params)[0], jax.ShapeDtypeStruct):
            return _placed(found, specs, mesh)
        leaves, tree = jax.tree.flatten(specs)
        return _splitter(config, mesh, tuple(leaves), tree)(params)

    params = {name: leaf for name, leaf in params.items() if name != "reward_head"}
    if not donate:
        return placed(params)
    each: list[dict[str, Any]] = [{} for _ in range(config.num_layers)]
    for module, leaves in params.pop("layers").items():
        for names in _sources(leaves).values():
            some = {name: leaves[name] for name in names}
            found = placed({"layers": {module: some}})["layers"]
            jax.block_until_ready(found)
            for leaf in some.values():
                leaf.delete()
            for layer, one in zip(each, found, strict=True):
                layer.setdefault(module, {}).update(one[module])
    return placed(params) | {"layers": each}


@functools.lru_cache(maxsize=256)
def _splitter(config: ModelConfig, mesh: Mesh, specs: Any, tree: Any) -> Any:
    """Returns the compiled `_split`; a second model of one kind compiles nothing."""
    shardings = [NamedSharding(mesh, spec) for spec in specs]
    return jax.jit(
        functools.partial(_split, config, mesh),
        out_shardings=jax.tree.unflatten(tree, shardings),
    )


def _split(config: ModelConfig, mesh: Mesh, params: Any) -> Any:
    def cast(leaf):
        # As the layers would at each call; norms and scales compute in float32.
        plain = leaf.ndim > 1 and not quantized.is_quantized(leaf)
        return leaf.astype(config.compute_dtype) if plain else leaf

    shards = mesh.shape["tensor"]
    params = partition.pack(config, params, Layout(mesh))
    found = {name: leaf for name, leaf in params.items() if name != "layers"}
    found = jax.tree.map(cast, found)
    if "layers" in params:
        found["layers"] = [
            {
                module: _joined(
                    {n: cast(leaf[index]) for n, leaf in leaves.items()}, shards
                )
                for module, leaves in params["layers"].items()
            }
            for index in range(config.num_layers)
        ]
    return found


def _sources(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Returns the engine's parameters of a module, and what each is made of."""
    found: dict[str, tuple[str, ...]] = {name: (name,) for name in names}
    if any(name.endswith(layers.LORA_SUFFIXES) for name in found):
        return found  # adapters belong to one kernel each
    for kernels in layers.SAME_INPUT:
        for suffix in ("", layers.SCALE_SUFFIX):
            parts = tuple(name + suffix for name in kernels)
            if set(parts) <= set(found):
                for name in parts:
                    del found[name]
                found[layers.joined(kernels) + suffix] = parts
    return found


def _joined(leaves: dict[str, jax.Array], shards: int) -> dict[str, jax.Array]:
    """Joins the columns of a module's kernels so that each shard has its own of all."""

    def join(*parts):
        if len(parts) == 1:
            return parts[0]
        parts = [part.reshape(*part.shape[:-1], shards, -1) for part in parts]
        return jnp.concatenate(parts, -1).reshape(*parts[0].shape[:-2], -1)

    return {
        name: join(*(leaves[part] for part in parts))
        for name, parts in _sources(leaves).items()
    }


def to_engine_params(model: LoadedModel, *, donate: bool) -> LoadedModel:
    """Returns the model with its parameters as the engine keeps them.

    Args:
      model: a language model; a reward head is dropped.
      donate: whether the given parameters are deleted, so that the weights are never
        there twice.
    """
    params = by_layer(model.config, model.params, model.mesh, donate=donate)
    return dataclasses.replace(model, params=params)


def _specs(params: Any) -> Any:
    """Returns the specs of the tree that `by_layer` makes, or of some branches."""
    per_layer = params.get("layers", [])
    others = {name: leaf for name, leaf in params.items() if name != "layers"}
    # Those of one layer are those of all.
    specs = partition.param_specs(
        others | ({"layers": per_layer[0]} if per_layer else {})
    )
    return specs | ({"layers": [specs["layers"]] * len(per_layer)} if per_layer else {})

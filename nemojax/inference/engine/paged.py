"""The model over a key/value cache in blocks: what is compiled, and where it runs.

`prefill` and `read` run a piece of some prompts, `decode` a few tokens of all rows.
Their shapes are fixed by `Shapes`, and the keys of a text are walked in tiles, as many
as the longest row needs, so nothing is compiled again for longer texts, and a row's
numbers do not depend on its neighbours.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nemojax.errors import UserError
from nemojax.inference.engine import paged_steps
from nemojax.inference.engine.paged_state import Scores, Shapes, State, Top, Written
from nemojax.interop.loading import LoadedModel
from nemojax.models import partition, quantized
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout

_ROWS = PartitionSpec("data")
_CACHE = PartitionSpec("data", "tensor")
_STATE_SPECS = State(_CACHE, _CACHE, *(_ROWS,) * 5)


class Programs:
    """A model on a mesh, compiled.

    Rows, blocks and the numbers in the tables are each shard's own along `data`:
    row r of `shapes.rows` belongs to shard `r // (rows / data)`.

    Attributes:
      prefill: (state, pieces) -> (state, Written with steps = 1, rows those of pieces).
      read: as `prefill`, with `Scores` as the third.
      decode: (state, turn) -> (state, Written). All use up the state they are given.
    """

    def __init__(self, config: ModelConfig, params: Any, mesh: Mesh, shapes: Shapes):
        """Nothing is compiled before its first call.

        Args:
          config: sizes.
          params: as `models.forward.init` makes them, or of `by_layer`; kept in the
            compute dtype, quantised kernels in theirs.
          mesh: `data` splits the rows, `tensor` the heads.
          shapes: what is compiled.

        Raises:
          UserError: a mesh with a pipeline, rows that `data` does not divide, heads
            that `tensor` does not, or a tile of broken blocks.
        """
        if mesh.shape["pipe"] != 1:
            raise UserError(f"inference needs pipe=1, got {mesh.shape['pipe']}")
        shards = mesh.shape["data"]
        for name in ("rows", "prefill_rows"):
            if getattr(shapes, name) % shards:
                raise UserError(
                    f"{name}={getattr(shapes, name)} does not divide over data={shards}"
                )
        if shapes.tile % shapes.block_size:
            raise UserError(
                f"tile={shapes.tile} is no multiple of block_size={shapes.block_size}"
            )
        self._config, self._mesh, self._shapes = config, mesh, shapes
        if isinstance(params["layers"], dict):
            params = by_layer(config, params, mesh)
        self.prefill, self.read, self.decode = (
            functools.partial(program, params)
            for program in programs(config, mesh, shapes, params)
        )

    def start(self) -> State:
        """No text at all."""
        make = functools.partial(_empty, self._config, self._shapes, self._mesh)
        shardings = State(*(NamedSharding(self._mesh, spec) for spec in _STATE_SPECS))
        return jax.jit(make, out_shardings=shardings)()


def programs(
    config: ModelConfig, mesh: Mesh, shapes: Shapes, params: Any
) -> tuple[Any, Any, Any]:
    """`prefill`, `read` and `decode` as `Programs` has them, not compiled yet, with the
    parameters (arrays or shapes, of `by_layer`) as their first argument."""
    specs = _specs(params)
    column = PartitionSpec(None, "data")
    written = Written(column, column, column, Top(column, column))
    scores = Scores(_ROWS, Top(_ROWS, _ROWS))

    def program(function, *given):
        mapped = jax.shard_map(
            functools.partial(function, config, shapes),
            mesh=mesh,
            in_specs=(specs, _STATE_SPECS, _ROWS),
            out_specs=(_STATE_SPECS, *given),
            # Each shard of `data` walks as many tiles as its own rows need.
            check_vma=False,
        )
        return jax.jit(mapped, donate_argnums=1)

    return (
        program(paged_steps.prefill, written),
        program(paged_steps.read, written, scores),
        program(paged_steps.decode, written),
    )


def state_shapes(config: ModelConfig, mesh: Mesh, shapes: Shapes) -> State:
    """What `Programs.start` would give, as shapes with shardings."""
    state = jax.eval_shape(functools.partial(_empty, config, shapes, mesh))
    return State(
        *(
            _placed(part, jax.tree.map(lambda _, spec=spec: spec, part), mesh)
            for part, spec in zip(state, _STATE_SPECS, strict=True)
        )
    )


def _empty(config: ModelConfig, shapes: Shapes, mesh: Mesh) -> State:
    c, s = config, shapes
    blocks = s.blocks * mesh.shape["data"]

    def cache():
        shape = (blocks, c.num_kv_heads, s.block_size, c.head_dim)
        return tuple(jnp.zeros(shape, c.compute_dtype) for _ in range(c.num_layers))

    token, length, count = (jnp.zeros(s.rows, jnp.int32) for _ in range(3))
    seen = jnp.zeros((s.rows, c.vocab_size), bool)
    done = jnp.ones(s.rows, bool)
    return State(cache(), cache(), token, length, count, done, seen)


def _placed(tree: Any, specs: Any, mesh: Mesh) -> Any:
    """Shapes, with where they are."""
    return jax.tree.map(
        lambda leaf, spec: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec)
        ),
        tree,
        specs,
    )


def by_layer(
    config: ModelConfig, params: Any, mesh: Mesh, *, consume: bool = False
) -> Any:
    """Parameters with a tree for each layer, in the compute dtype.

    Stacked, each layer's would be copied out of the stack at each token.

    Args:
      config: sizes.
      params: as `models.forward.init` makes them, or their shapes.
      mesh: where they go.
      consume: goes leaf by leaf, and deletes each stacked one: the weights are never
        there twice.
    """

    def cast(leaf):
        # As the layers would at each call; norms and scales compute in float32.
        plain = leaf.ndim > 1 and not quantized.is_quantized(leaf)
        return leaf.astype(config.compute_dtype) if plain else leaf

    def split(params):
        params = partition.pack(config, params, Layout(mesh))
        found = {name: leaf for name, leaf in params.items() if name != "layers"}
        found = jax.tree.map(cast, found)
        if "layers" in params:
            found["layers"] = [
                jax.tree.map(lambda leaf, i=index: cast(leaf[i]), params["layers"])
                for index in range(config.num_layers)
            ]
        return found

    def placed(params):
        """Of a whole tree or of some branches."""
        found = jax.eval_shape(split, params)
        specs = _specs(found)
        if isinstance(jax.tree.leaves(params)[0], jax.ShapeDtypeStruct):
            return _placed(found, specs, mesh)
        shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
        return jax.jit(split, out_shardings=shardings)(params)

    params = {name: leaf for name, leaf in params.items() if name != "reward_head"}
    if not consume:
        return placed(params)
    each: list[dict[str, Any]] = [{} for _ in range(config.num_layers)]
    for module, leaves in params.pop("layers").items():
        for name, leaf in leaves.items():
            found = placed({"layers": {module: {name: leaf}}})["layers"]
            jax.block_until_ready(found)
            leaf.delete()
            for layer, one in zip(each, found, strict=True):
                layer.setdefault(module, {}).update(one[module])
    return placed(params) | {"layers": each}


def taken_over(model: LoadedModel) -> LoadedModel:
    """The model with its parameters as the engine keeps them; the given one's are gone.

    So the weights are never there twice. A reward head goes with the others.
    """
    params = by_layer(model.config, model.params, model.mesh, consume=True)
    return dataclasses.replace(model, params=params)


def _specs(params: Any) -> Any:
    """Of the tree that `by_layer` makes, or of some of its branches."""
    layers = params.get("layers", [])
    others = {name: leaf for name, leaf in params.items() if name != "layers"}
    # Those of one layer are those of all.
    specs = partition.param_specs(others | ({"layers": layers[0]} if layers else {}))
    return specs | ({"layers": [specs["layers"]] * len(layers)} if layers else {})

"""The model over a key/value cache in blocks: what is compiled, and where it runs.

`prefill` and `read` run a piece of some prompts, `decode` a few tokens of all rows.
Their shapes are fixed by `Shapes`, and the keys of a text are walked in tiles, as many
as the longest row needs, so nothing is compiled again for longer texts, and a row's
numbers do not depend on its neighbours.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nemojax.inference import paged_steps
from nemojax.inference.paged_state import Scores, Shapes, State, Top, Written
from nemojax.models import partition
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
          params: as `models.forward.init` makes them; kept in the compute dtype.
          mesh: `data` splits the rows, `tensor` the heads.
          shapes: what is compiled.

        Raises:
          ValueError: a mesh with a pipeline, rows that `data` does not divide, heads
            that `tensor` does not, or a tile of broken blocks.
        """
        if mesh.shape["pipe"] != 1:
            raise ValueError(f"inference needs pipe=1, got {mesh.shape['pipe']}")
        shards = mesh.shape["data"]
        for name in ("rows", "prefill_rows"):
            if getattr(shapes, name) % shards:
                raise ValueError(
                    f"{name}={getattr(shapes, name)} does not divide over data={shards}"
                )
        if shapes.tile % shapes.block_size:
            raise ValueError(
                f"tile={shapes.tile} is no multiple of block_size={shapes.block_size}"
            )
        self._config, self._mesh, self._shapes = config, mesh, shapes
        self._params, specs = _by_layer(config, params, mesh)
        column = PartitionSpec(None, "data")
        written = Written(column, column, column, Top(column, column))
        scores = Scores(_ROWS, Top(_ROWS, _ROWS))
        self.prefill = self._compiled(paged_steps.prefill, specs, written)
        self.read = self._compiled(paged_steps.read, specs, written, scores)
        self.decode = self._compiled(paged_steps.decode, specs, written)

    def _compiled(self, function, specs, *given):
        mapped = jax.shard_map(
            functools.partial(function, self._config, self._shapes),
            mesh=self._mesh,
            in_specs=(specs, _STATE_SPECS, _ROWS),
            out_specs=(_STATE_SPECS, *given),
            # Each shard of `data` walks as many tiles as its own rows need.
            check_vma=False,
        )
        compiled = jax.jit(mapped, donate_argnums=1)
        return functools.partial(compiled, self._params)

    def start(self) -> State:
        """No text at all."""
        c, s, mesh = self._config, self._shapes, self._mesh
        blocks = s.blocks * mesh.shape["data"]

        def make() -> State:
            def cache():
                shape = (blocks, c.num_kv_heads, s.block_size, c.head_dim)
                return tuple(
                    jnp.zeros(shape, c.compute_dtype) for _ in range(c.num_layers)
                )

            token, length, count = (jnp.zeros(s.rows, jnp.int32) for _ in range(3))
            seen = jnp.zeros((s.rows, c.vocab_size), bool)
            done = jnp.ones(s.rows, bool)
            return State(cache(), cache(), token, length, count, done, seen)

        shardings = State(*(NamedSharding(mesh, spec) for spec in _STATE_SPECS))
        return jax.jit(make, out_shardings=shardings)()


def _by_layer(config: ModelConfig, params: Any, mesh: Mesh) -> tuple[Any, Any]:
    """Parameters with a tree for each layer, in the compute dtype, and their specs.

    Stacked, each layer's would be copied out of the stack at each token.
    """

    def cast(leaf):
        # As the layers would at each call; norms compute in float32.
        return leaf.astype(config.compute_dtype) if leaf.ndim > 1 else leaf

    def split(params):
        params = partition.pack(config, params, Layout(mesh))
        count = config.num_layers
        each = [
            jax.tree.map(lambda leaf, i=index: cast(leaf[i]), params["layers"])
            for index in range(count)
        ]
        others = {name: leaf for name, leaf in params.items() if name != "layers"}
        return jax.tree.map(cast, others) | {"layers": each}

    params = {name: leaf for name, leaf in params.items() if name != "reward_head"}
    specs = partition.param_specs(params)
    of_layer = jax.tree.map(lambda spec: PartitionSpec(*spec[1:]), specs["layers"])
    specs = specs | {"layers": [of_layer] * config.num_layers}
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    return jax.jit(split, out_shardings=shardings)(params), specs

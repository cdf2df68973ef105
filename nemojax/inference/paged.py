"""The model over a key/value cache in blocks: what runs on the device.

Two programs serve any mix of requests: `prefill` runs a piece of some prompts, `decode`
a few tokens of all rows. Their shapes are fixed by `Shapes`, and the keys of a text are
walked in tiles, as many as the longest row needs, so nothing is compiled again for
longer texts, and a row's numbers do not depend on its neighbours.

Shape letters: B rows, S tokens of a row, N blocks, Z tokens of a block, W blocks of a
row, G key/value heads, K head width, V vocabulary.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nemojax.inference import paged_attention, sampling
from nemojax.models import layers, partition, stages
from nemojax.models.config import ModelConfig
from nemojax.parallel import collectives
from nemojax.parallel.layout import Layout

_ROWS = PartitionSpec("data")
_CACHE = PartitionSpec("data", "tensor")


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What is compiled.

    Attributes:
      rows: answers that are written at a time.
      blocks: of the cache, of each shard of `data`.
      block_size: tokens of a block.
      max_length: tokens of a text, prompt and answer.
      prefill_rows: prompts that are read at a time.
      chunk: tokens of a prompt that are read at a time.
      tile: keys that are looked at at a time; a multiple of `block_size`.
      steps: tokens that `decode` writes in a row.
    """

    rows: int = 32
    blocks: int = 1024
    block_size: int = 16
    max_length: int = 4096
    prefill_rows: int = 8
    chunk: int = 128
    tile: int = 256
    steps: int = 4

    @property
    def width(self) -> int:
        """W: blocks that a text can have, up to a whole tile."""
        return -(-self.max_length // self.tile) * self.tile // self.block_size


class State(NamedTuple):
    """Where the rows are, on the device (or what is said of each array).

    Attributes:
      keys, values: of each layer [N, G, Z, K].
      token: int32 [B], the newest, whose keys are not in the cache yet.
      length: int32 [B], tokens in the cache.
      count: int32 [B], tokens of the answer, the newest included.
      done: bool [B].
      seen: bool [B, V], tokens of prompt and answer.
    """

    keys: Any
    values: Any
    token: Any
    length: Any
    count: Any
    done: Any
    seen: Any


class Written(NamedTuple):
    """Tokens of a call: arrays [steps, B].

    Attributes:
      token: int32.
      log_prob: float32, of the token in the model's own distribution.
      valid: bool; False where the row was done before.
    """

    token: Any
    log_prob: Any
    valid: Any


class Piece(NamedTuple):
    """Pieces of prompts: arrays [B] or [B, S].

    Attributes:
      tokens: int32 [B, S].
      start: int32, tokens of the text that are in the cache before.
      size: int32, tokens of the piece; 0: it is none.
      row: int32, where the answer will be written; `rows` and more: nowhere.
      last: bool, whether the prompt ends here and the answer begins.
      table: int32 [B, W], blocks.
      how: sampling settings. With a repetition penalty a text has to start at 0.
    """

    tokens: Any
    start: Any
    size: Any
    row: Any
    last: Any
    table: Any
    how: sampling.Settings


class Turn(NamedTuple):
    """What `decode` needs of all rows.

    Attributes:
      active: bool [B]; False for rows without a request, or whose was cancelled.
      table: int32 [B, W], blocks.
      how: sampling settings.
    """

    active: Any
    table: Any
    how: sampling.Settings


_STATE_SPECS = State(_CACHE, _CACHE, *(_ROWS,) * 5)


class Programs:
    """A model on a mesh, compiled.

    Rows, blocks and the numbers in the tables are each shard's own along `data`:
    row r of `shapes.rows` belongs to shard `r // (rows / data)`.

    Attributes:
      prefill: (state, pieces) -> (state, Written with steps = 1, rows those of pieces).
      decode: (state, turn) -> (state, Written). Both use up the state they are given.
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
        written = Written(*(PartitionSpec(None, "data"),) * 3)
        self.prefill, self.decode = (
            functools.partial(self._compiled(function, specs, written), self._params)
            for function in (_prefill, _decode)
        )

    def _compiled(self, function, specs, written):
        mapped = jax.shard_map(
            functools.partial(function, self._config, self._shapes),
            mesh=self._mesh,
            in_specs=(specs, _STATE_SPECS, _ROWS),
            out_specs=(_STATE_SPECS, written),
            # Each shard of `data` walks as many tiles as its own rows need.
            check_vma=False,
        )
        return jax.jit(mapped, donate_argnums=1)

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


def _prefill(
    config: ModelConfig, shapes: Shapes, params, state: State, piece: Piece
) -> tuple[State, Written]:
    """Writes pieces to the cache; where a prompt ends, the answer's first token."""
    x, keys, values = _forward(
        config,
        shapes,
        params,
        state,
        piece.tokens,
        piece.start,
        piece.size,
        piece.table,
    )
    last = jnp.maximum(piece.size - 1, 0)
    x = jnp.take_along_axis(x, last[:, None, None], axis=1)
    begins = (piece.start == 0)[:, None]
    seen = jnp.where(begins, False, state.seen[piece.row])
    rows, offset = jnp.arange(len(seen))[:, None], jnp.arange(piece.tokens.shape[1])
    inside = jnp.where(offset < piece.size[:, None], piece.tokens, config.vocab_size)
    seen = seen.at[rows, inside].set(True, mode="drop")
    count = jnp.zeros_like(piece.start)
    token, log_prob = _next(config, params, x, seen, count, piece.how)
    live = piece.last & (piece.size > 0)
    seen = _see(seen, token, live)

    def put(old, new):
        return old.at[piece.row].set(new, mode="drop")

    state = State(
        keys,
        values,
        put(state.token, token),
        put(state.length, piece.start + piece.size),
        put(state.count, count + 1),
        put(state.done, ~live | sampling.ends(token, count + 1, piece.how)),
        put(state.seen, seen),
    )
    return state, Written(token[None], log_prob[None], live[None])


def _decode(
    config: ModelConfig, shapes: Shapes, params, state: State, turn: Turn
) -> tuple[State, Written]:
    """Some tokens of every row that is not done."""

    def step(state: State, _):
        live = turn.active & ~state.done
        size = live.astype(jnp.int32)
        x, keys, values = _forward(
            config, shapes, params, state, state.token[:, None], state.length, size,
            turn.table,
        )  # fmt: skip
        token, log_prob = _next(config, params, x, state.seen, state.count, turn.how)
        count = state.count + size
        state = State(
            keys,
            values,
            jnp.where(live, token, state.token),
            state.length + size,
            count,
            state.done | (live & sampling.ends(token, count, turn.how)),
            _see(state.seen, token, live),
        )
        return state, Written(token, log_prob, live)

    return lax.scan(step, state, length=shapes.steps)


def _see(seen_BV, token_B, live_B):
    """With the tokens of the rows that are live."""
    token_B = jnp.where(live_B, token_B, seen_BV.shape[1])
    return seen_BV.at[jnp.arange(len(token_B)), token_B].set(True, mode="drop")


def _next(config: ModelConfig, params, x_B1D, seen, count, how):
    """The next token [B] and its log-probability in the model's distribution."""
    x_B1D = stages.final_norm(config, params, x_B1D)
    logits = stages.local_logits(config, params, x_B1D)[:, 0]
    logits = collectives.all_gather(logits, "tensor", 1)[:, : config.vocab_size]
    token = sampling.choose(logits, seen, count, how)
    picked = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
    return token, picked - jax.nn.logsumexp(logits, axis=-1)


def _forward(
    config: ModelConfig,
    shapes: Shapes,
    params,
    state: State,
    tokens,
    start,
    size,
    table,
):
    """Tokens [B, S] through the layers, and the cache with them in it.

    Those from `size` on are written to the block that is nobody's.
    """
    offset = jnp.arange(tokens.shape[1])
    positions = start[:, None] + offset
    valid = offset < size[:, None]
    block = jnp.take_along_axis(table, positions // shapes.block_size, 1, mode="clip")
    block = jnp.where(valid, block, 0)
    place = jnp.where(valid, positions % shapes.block_size, 0)
    tiles = jnp.maximum(1, -(-jnp.max(start + size) // shapes.tile))
    layer = layers.DecoderLayer(config, sequence_parallel=False)
    x = stages.embed(config, params, tokens, sequence_parallel=False)
    keys, values = list(state.keys), list(state.values)
    for index, layer_params in enumerate(params["layers"]):

        def attend(q, k, v, index=index):
            keys[index] = keys[index].at[block, :, place].set(k)
            values[index] = values[index].at[block, :, place].set(v)
            out = paged_attention.attention(
                q, keys[index], values[index], table, positions, tiles, shapes.tile
            )
            return out, None

        x, _ = layers.apply(layer, layer_params, x, positions, attend)
    return x, tuple(keys), tuple(values)

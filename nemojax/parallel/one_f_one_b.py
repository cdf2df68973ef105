"""The pipeline as interleaved 1F1B: its memory does not grow with the micro-batches.

In one tick the last stage ends a micro-batch forwards, the head turns it into a
gradient, and its way back begins (`parallel.timetable` says who does what):

    V P - 1 ticks forwards | M V + P - V P ticks of both | V P - 1 ticks backwards

Autodiff sees single chunks only: what it needs to undo one, its input and what remat
keeps, waits in one of 3/2 V P slots, however many micro-batches there are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from nemojax.parallel import collectives
from nemojax.parallel.mesh import AXES
from nemojax.parallel.timetable import Timetable

# (zeros that take a chunk's gradients up, chunk, micro-batch, activations) -> the same
Stage = Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]
# (head parameters, micro-batch, activations after all layers) -> values
Head = Callable[[Any, jax.Array, jax.Array], jax.Array]


class Gradients(NamedTuple):
    """Results of a pass over all micro-batches.

    Attributes:
      values: [M, ...] what the head makes of each micro-batch.
      layers: like `sums`.
      head: like the head's parameters, float32.
      inputs: [M, B, S, D] of what goes into the pipeline; on stage 0, else zeros.
    """

    values: jax.Array
    layers: Any
    head: Any
    inputs: jax.Array


class _State(NamedTuple):
    x: jax.Array  # comes from the stage before
    dx: jax.Array  # comes from the stage behind
    kept: list[jax.Array]  # [slots, ...] what undoes a chunk
    gradients: Gradients


def run(
    stage: Stage,
    head: Head,
    constants: Any,
    sums: Any,
    head_params: Any,
    x_MBSD: jax.Array,
    cotangents_M: jax.Array,
    virtual_stages: int,
) -> Gradients:
    """Runs both passes of all micro-batches, inside a `shard_map` over `pipe`.

    Args:
      stage: applies the layers of one chunk of this stage. Its zeros are like `sums`
        without the first dim, in the dtype of the weights.
      head: gets the same activations on every stage, and must give values that are
        marked as equal on every stage.
      constants: arrays that `stage` closes over, with the weights as `weights`: they
        are not kept for each chunk anew.
      sums: zeros, arrays `[V, ...]` that the layers' gradients are added to.
      head_params: parameters of the head.
      x_MBSD: all micro-batches, the same on every stage; M is a multiple of the number
        of stages.
      cotangents_M: derivatives of the loss by the values, of their shape and type.
      virtual_stages: chunks V of every stage.
    """
    timetable = Timetable(
        len(x_MBSD),
        virtual_stages,
        collectives.axis_size("pipe"),
        collectives.axis_index("pipe"),
    )
    chunk = _Chunk(stage, constants, sums, x_MBSD[0])
    passes = _Passes(timetable, chunk, head, head_params, x_MBSD, cotangents_M)

    shape, dtype = x_MBSD.shape, x_MBSD.dtype
    state = _State(
        x=_zeros(shape[1:], dtype),
        dx=_zeros(shape[1:], dtype),
        kept=[_zeros((timetable.slots, *k.shape), k.dtype) for k in chunk.kept],
        gradients=Gradients(
            values=cotangents_M * 0,
            layers=sums,
            head=jax.tree.map(lambda p: _zeros(p.shape, jnp.float32), head_params),
            inputs=_zeros(shape, dtype),
        ),
    )

    def both(state, t):
        state, y = passes.forwards(state, t)
        state, dy = passes.ends(state, t, y)
        return passes.backwards(state, t, dy)

    phases = (
        (lambda state, t: passes.forwards(state, t)[0], 0, timetable.delay),
        (both, timetable.delay, timetable.forward_ticks),
        (passes.backwards, timetable.forward_ticks, timetable.ticks),
    )
    for tick, start, stop in phases:
        if start < stop:

            def body(state, t, tick=tick):
                return tick(state, t), None

            state, _ = lax.scan(body, state, jnp.arange(start, stop))
    return state.gradients


class _Chunk:
    """Layers of a chunk forwards, and backwards out of what was kept of that."""

    def __init__(self, stage: Stage, constants: Any, sums: Any, x: jax.Array):
        """Traces one chunk for `kept`, the shapes of what it keeps."""
        self._stage = stage
        self._into = jax.tree.map(
            lambda total, weight: _zeros(total.shape[1:], weight.dtype),
            sums,
            constants["weights"],
        )
        self._constants = jax.tree.leaves((constants, self._into))
        self._places: list[int | None] = []  # among the constants
        self._structure: Any = None
        # What a vjp keeps of its constants are these arrays themselves.
        places = {id(leaf): place for place, leaf in enumerate(self._constants)}

        def trace(chunk, m, x):
            _, pull = jax.vjp(self._of(chunk, m), self._into, x)
            leaves, self._structure = jax.tree.flatten(pull)
            self._places = [places.get(id(leaf)) for leaf in leaves]
            return self._without_constants(leaves)

        zero = jnp.zeros((), jnp.int32)
        self.kept = jax.eval_shape(trace, zero, zero, x)

    def forwards(self, chunk, m, x) -> tuple[jax.Array, list[jax.Array]]:
        y, pull = jax.vjp(self._of(chunk, m), self._into, x)
        return y, self._without_constants(jax.tree.leaves(pull))

    def backwards(self, kept: list[jax.Array], dy) -> tuple[Any, jax.Array]:
        """Computes the gradients of the chunk's weights and of its input."""
        rest = iter(kept)
        leaves = [
            next(rest) if place is None else self._constants[place]
            for place in self._places
        ]
        return jax.tree.unflatten(self._structure, leaves)(dy)

    def _of(self, chunk, m):
        return lambda into, x: self._stage(into, chunk, m, x)

    def _without_constants(self, leaves) -> list[jax.Array]:
        pairs = zip(leaves, self._places, strict=True)
        return [leaf for leaf, place in pairs if place is None]


class _Passes(NamedTuple):
    """The three things that happen in a tick."""

    timetable: Timetable
    chunk: _Chunk
    head: Head
    head_params: Any
    x_MBSD: jax.Array
    cotangents_M: jax.Array

    def forwards(self, state: _State, t) -> tuple[_State, jax.Array]:
        work = self.timetable.forwards(t)
        enters = (self.timetable.stage == 0) & (work.chunk == 0)
        x = jnp.where(enters, _at(self.x_MBSD, work.micro_batch), state.x)
        y, kept = self.chunk.forwards(work.chunk, work.micro_batch, x)
        kept = [
            _put(slots, work.slot, one, work.real)
            for slots, one in zip(state.kept, kept, strict=True)
        ]
        return state._replace(x=collectives.rotate(y, "pipe"), kept=kept), y

    def ends(self, state: _State, t, y) -> tuple[_State, jax.Array]:
        """Applies the head, with gradients, to a micro-batch that passed all layers."""
        real, _, m, _ = self.timetable.ends(t)
        cotangent = _at(self.cotangents_M, m)

        def value(params, y):
            y = collectives.all_reduce(jnp.where(self._is_last(), y, 0), "pipe")
            return self.head(params, m, y)

        def yes(_):
            values, pull = jax.vjp(value, self.head_params, y)
            return values, *pull(cotangent)

        def no(_):
            zeros = jax.tree.map(
                lambda leaf: _zeros(leaf.shape, leaf.dtype), (self.head_params, y)
            )
            return cotangent * 0, *zeros

        # The condition is the same on all devices: the head's collectives may stand
        # inside.
        values, d_params, dy = lax.cond(real, yes, no, 0)
        gradients = state.gradients._replace(
            values=_put(state.gradients.values, m, values, real),
            head=jax.tree.map(jnp.add, state.gradients.head, d_params),
        )
        return state._replace(gradients=gradients), dy

    def backwards(self, state: _State, t, dy=None) -> _State:
        """Runs a tick's backward pass; `dy` is the gradient of a head that ends."""
        work = self.timetable.backwards(t)
        cotangent = state.dx
        if dy is not None:
            begins = self._is_last() & (work.chunk == self.timetable.virtual_stages - 1)
            cotangent = jnp.where(begins, dy, cotangent)
        kept = [_at(slots, work.slot) for slots in state.kept]
        d_chunk, dx = self.chunk.backwards(kept, cotangent)

        def add(total, part):
            part = jnp.where(work.real, part, 0).astype(total.dtype)
            return _put(total, work.chunk, _at(total, work.chunk) + part)

        gradients = state.gradients
        leaves = work.real & (self.timetable.stage == 0) & (work.chunk == 0)
        gradients = gradients._replace(
            layers=jax.tree.map(add, gradients.layers, d_chunk),
            inputs=_put(gradients.inputs, work.micro_batch, dx, leaves),
        )
        dx = collectives.rotate(dx, "pipe", by=-1)
        return state._replace(dx=dx, gradients=gradients)

    def _is_last(self):
        return self.timetable.stage == self.timetable.stages - 1


def _zeros(shape, dtype) -> jax.Array:
    return collectives.vary(jnp.zeros(shape, dtype), AXES)


def _at(array: jax.Array, index) -> jax.Array:
    return lax.dynamic_index_in_dim(array, index, 0, keepdims=False)


def _put(
    array: jax.Array, index, value: jax.Array, where: jax.Array | None = None
) -> jax.Array:
    """Returns `array` with an entry replaced where `where` holds."""
    if where is not None:
        value = jnp.where(where, value, _at(array, index))
    return lax.dynamic_update_index_in_dim(array, value, index, 0)

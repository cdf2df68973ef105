"""The pipeline: depth-first interleaved GPipe, one `ppermute` a tick, no storage.

`parallel.timetable` says who does what; the backward pass is autodiff's.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from nemojax.parallel import collectives
from nemojax.parallel.timetable import Timetable

# (chunk, micro-batch, activations) -> activations. The first two are int32 scalars
# that differ from stage to stage, or plain 0 where there is one chunk.
Stage = Callable[[jax.Array | int, jax.Array | int, jax.Array], jax.Array]


def run(stage: Stage, x_MBSD: jax.Array, virtual_stages: int) -> jax.Array:
    """Sends micro-batches through the layers, inside a `shard_map` over `pipe`.

    Differentiable: the backward pass is the same pipeline, backwards.

    Args:
      stage: applies the layers of one chunk of this stage.
      x_MBSD: all micro-batches, the same on every stage; M is a multiple of the number
        of stages.
      virtual_stages: chunks V of every stage.

    Returns:
      [M, B, S, D] on the last stage, zeros on the others.
    """
    pipe, me = collectives.axis_size("pipe"), collectives.axis_index("pipe")
    count = len(x_MBSD)
    if pipe * virtual_stages * count == 1:
        return stage(0, 0, x_MBSD[0])[None]
    if pipe * virtual_stages == 1:
        micro_batches = (jnp.arange(count), x_MBSD)
        return lax.scan(lambda _, mx: (None, stage(0, *mx)), None, micro_batches)[1]
    timetable = Timetable(count, virtual_stages, pipe, me)

    # Stage 0 takes a micro-batch from its place, and when it has passed all chunks the
    # last stage puts it back there: one buffer, also if they are the same stage.
    def tick(carry, t):
        x, buffer = carry
        real, chunk, m, _ = timetable.forwards(t)
        waiting = lax.dynamic_index_in_dim(buffer, m, 0, False)
        y = stage(chunk, m, jnp.where((me == 0) & (chunk == 0), waiting, x))
        leaves = real & (me == pipe - 1) & (chunk == virtual_stages - 1)
        done = jnp.where(leaves, y, waiting)
        buffer = lax.dynamic_update_index_in_dim(buffer, done, m, 0)
        return (collectives.rotate(y, "pipe"), buffer), None

    # Zeros made of x carry the right device-varying type.
    start = (x_MBSD[0] * 0, x_MBSD)
    (_, out), _ = lax.scan(tick, start, jnp.arange(timetable.forward_ticks))
    return jnp.where(me == pipe - 1, out, 0)

"""The pipeline: depth-first interleaved ring, one `ppermute` a tick, no storage.

Groups of P micro-batches go through all V chunks of every stage before the next group
enters (Megatron's order). At tick t, stage s is at place k = t - s of its work:

    group  g = k // (P V)      chunk  v = (k % (P V)) // P      micro-batch  g P + k % P

What the last stage has for chunk v is then just what stage 0 needs at the next tick for
chunk v + 1, so that activations only ever travel to the next stage of the ring. There
are M V + P - 1 ticks, of which P - 1 are bubble: a share of (P - 1) / (V M).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from nemojax.parallel import collectives

# (chunk, micro-batch, activations) -> activations. The first two are int32 scalars
# that differ from stage to stage, or plain 0 where there is one chunk.
Stage = Callable[[jax.Array | int, jax.Array | int, jax.Array], jax.Array]


def run(stage: Stage, x_MBSD: jax.Array, virtual_stages: int) -> jax.Array:
    """Sends micro-batches through the layers, inside a `shard_map` over `pipe`.

    Differentiable: the backward pass is the same ring, backwards.

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
    last_chunk = virtual_stages - 1

    # Stage 0 takes a micro-batch from its place, and when it has passed all chunks the
    # last stage puts it back there: one buffer, also if they are the same stage.
    def tick(carry, t):
        x, buffer = carry
        place = jnp.clip(t - me, 0, count * virtual_stages - 1)
        group, rest = jnp.divmod(place, pipe * virtual_stages)
        chunk, member = jnp.divmod(rest, pipe)
        m = group * pipe + member
        waiting = lax.dynamic_index_in_dim(buffer, m, 0, False)
        y = stage(chunk, m, jnp.where((me == 0) & (chunk == 0), waiting, x))
        leaves = (me == pipe - 1) & (chunk == last_chunk) & (t >= me)
        done = jnp.where(leaves, y, waiting)
        buffer = lax.dynamic_update_index_in_dim(buffer, done, m, 0)
        return (collectives.rotate(y, "pipe"), buffer), None

    # Zeros made of x carry the right device-varying type.
    start = (x_MBSD[0] * 0, x_MBSD)
    ticks = jnp.arange(count * virtual_stages + pipe - 1)
    (_, out), _ = lax.scan(tick, start, ticks)
    return jnp.where(me == pipe - 1, out, 0)

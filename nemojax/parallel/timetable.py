"""Work of each stage of a pipeline at each tick, in the interleaved orders.

Groups of P micro-batches go through all V chunks of every stage before the next group
enters (Megatron's order). At tick t, stage s is at place k = t - s of its work:

    group  g = k // (P V)      chunk  v = (k % (P V)) // P      micro-batch  g P + k % P

What the last stage has for chunk v is then just what stage 0 needs at the next tick for
chunk v + 1, so that activations only ever travel to the next stage, cyclically. There
are M V + P - 1 ticks, of which P - 1 are bubble.

In 1F1B the backward pass is the same with chunks in reverse, V P - 1 ticks behind: the
last stage ends a micro-batch forwards and begins it backwards in one tick.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Work(NamedTuple):
    """Work of one stage: arrays of the shape of the given ticks.

    Attributes:
      real: whether there is anything to do; if not, the rest is the nearest work.
      chunk: number of the chunk among the stage's.
      micro_batch: number of the micro-batch among all.
      slot: slot in which 1F1B keeps what undoes the chunk.
    """

    real: jax.Array
    chunk: jax.Array
    micro_batch: jax.Array
    slot: jax.Array


@dataclasses.dataclass(frozen=True)
class Timetable:
    """Work of one stage by tick.

    Attributes:
      micro_batches: M, a multiple of the number of stages.
      virtual_stages: chunks V of a stage.
      stages: P, all that there are.
      stage: number of the stage; may be traced.
    """

    micro_batches: int
    virtual_stages: int
    stages: int
    stage: Any = 0

    @property
    def forward_ticks(self) -> int:
        """Number of ticks until all micro-batches have passed all layers."""
        return self.micro_batches * self.virtual_stages + self.stages - 1

    @property
    def delay(self) -> int:
        """Ticks of 1F1B before the first backward pass."""
        return self.virtual_stages * self.stages - 1

    @property
    def ticks(self) -> int:
        """Number of ticks of 1F1B."""
        return self.forward_ticks + self.delay

    @property
    def bubble(self) -> float:
        """Idle ticks of a stage as a share of its work."""
        return (self.stages - 1) / (self.virtual_stages * self.micro_batches)

    @property
    def slots(self) -> int:
        """Chunks that wait for their backward pass in 1F1B, at most."""
        return (self.virtual_stages + self._twice) * self.stages

    @property
    def _twice(self) -> int:
        """Number of chunks of which two groups wait at the same time.

        Chunk v comes back up to 2 (V - v) P - 2 ticks later, and the next group comes
        after V P.
        """
        several = self.micro_batches > self.stages
        return -(-self.virtual_stages // 2) if several else 0

    def forwards(self, tick) -> Work:
        """Returns the forward pass of this stage."""
        return self._work(tick - self.stage)

    def ends(self, tick) -> Work:
        """Returns the micro-batch that leaves the last stage, on every stage."""
        work = self._work(tick - (self.stages - 1))
        return work._replace(real=work.real & (work.chunk == self.virtual_stages - 1))

    def backwards(self, tick) -> Work:
        """Returns the backward pass of this stage in 1F1B."""
        behind = self.delay + self.stages - 1 - self.stage
        return self._work(tick - behind, backwards=True)

    def _work(self, place, backwards: bool = False) -> Work:
        chunks, places = self.delay + 1, self.micro_batches * self.virtual_stages
        real = (place >= 0) & (place < places)
        group, rest = jnp.divmod(jnp.clip(place, 0, places - 1), chunks)
        chunk, member = jnp.divmod(rest, self.stages)
        if backwards:
            chunk = self.virtual_stages - 1 - chunk
        second = (chunk < self._twice) & (group % 2 == 1)
        row = jnp.where(second, chunk + self.virtual_stages, chunk)
        micro_batch, slot = (n * self.stages + member for n in (group, row))
        return Work(real, chunk, micro_batch, slot)

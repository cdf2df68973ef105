"""How a step is spread over a mesh: the pipeline, the weights, what is recomputed."""

import dataclasses
import functools

from jax.sharding import Mesh

from nemojax.parallel import mesh as meshes

ZERO_STAGES = (0, 1, 3)
ACCUMULATE = ("float32", "compute")
SCHEDULES = ("gpipe", "1f1b")


@functools.cache
def _one_device() -> Mesh:
    return meshes.make_mesh()


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh and how the forward functions use it; hashable, so a static argument.

    Attributes:
      mesh: axes `data, pipe, tensor`; default: one device.
      virtual_stages: chunks of layers that each pipeline stage holds. Layer chunk
        `v * pipe + p` is the v-th of stage p (the interleaved schedule).
      micro_batches: parts of a data share's rows that pass through the pipeline one
        after the other; None: single rows if there is a pipeline, else all at once.
      remat: what a layer keeps for the backward pass, a name that
        `models.stages.REMAT_POLICIES` knows.
      zero: 0: each data replica holds all weights. 1: parameters, gradients and
        optimizer state are split over `data`, gathered once a step (ZeRO-1). 3: each
        layer is gathered where it is used, and again in the backward pass.
      attention: a name of `models.attention_kernels.KERNELS`; None: by platform.
      accumulate: dtype in which micro-batches add up their gradients: "float32", or
        "compute" for the model's compute dtype, which takes half the memory.
      schedule: of the pipeline. "gpipe": all forward ticks, then all backward ones, so
        that every micro-batch keeps what `remat` says. "1f1b": one forward, one
        backward, which keeps it for three micro-batches in two stages, however many
        there are in all; losses that are not linear in the log-probs take one forward
        pass more.

    Raises:
      ValueError: a value that is none of these.
    """

    mesh: Mesh = dataclasses.field(default_factory=_one_device)
    virtual_stages: int = 1
    micro_batches: int | None = None
    remat: str = "none"
    zero: int = 0
    attention: str | None = None
    accumulate: str = "float32"
    schedule: str = "gpipe"

    def __post_init__(self):
        if self.virtual_stages < 1:
            raise ValueError(f"virtual_stages={self.virtual_stages} must be positive")
        if self.micro_batches is not None and self.micro_batches < 1:
            raise ValueError(f"micro_batches={self.micro_batches} must be positive")
        if self.zero not in ZERO_STAGES:
            raise ValueError(f"zero={self.zero} is none of {ZERO_STAGES}")
        for name, known in (("accumulate", ACCUMULATE), ("schedule", SCHEDULES)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name}={value!r} is none of {', '.join(known)}")

    def size(self, *axes: str) -> int:
        """Number of devices along mesh axes."""
        count = 1
        for axis in axes:
            count *= self.mesh.shape[axis]
        return count

    @property
    def platform(self) -> str:
        """What the mesh's devices are: "cpu", "gpu", "cuda" or "tpu"."""
        return self.mesh.devices.flat[0].platform

    @property
    def chunks(self) -> int:
        """Parts that the layers are cut into."""
        return self.virtual_stages * self.size("pipe")

    def count_micro_batches(self, rows: int) -> int:
        """Micro-batches of a batch with so many rows in all.

        Raises:
          ValueError: the rows do not divide; the message says what would.
        """
        data, pipe = self.size("data"), self.size("pipe")
        if rows % (data * pipe):
            raise ValueError(
                f"{rows} rows do not divide over data={data} x pipe={pipe}: use a "
                f"multiple of {data * pipe}"
            )
        share = rows // data
        count = self.micro_batches or (share if pipe > 1 else 1)
        if share % count or count % pipe:
            valid = [n for n in range(pipe, share + 1, pipe) if share % n == 0]
            raise ValueError(
                f"micro_batches={count} must divide the {share} rows of a data share "
                f"and be a multiple of pipe={pipe}: use {', '.join(map(str, valid))}"
            )
        return count

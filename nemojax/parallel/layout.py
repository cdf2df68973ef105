"""Layout of a step on a mesh: the pipeline, the weights, what is recomputed."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from nemojax.errors import UserError
from nemojax.parallel import mesh as meshes

ZERO_STAGES = (0, 1, 3)
ACCUMULATE = ("float32", "compute")
PIPELINES = ("gpipe", "1f1b")
AUTO = "auto"


@functools.cache
def _one_device() -> Mesh:
    return meshes.make_mesh()


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayoutOptions:
    """Options of a step that do not depend on the devices.

    Attributes:
      virtual_stages: chunks of layers that each pipeline stage holds. Layer chunk
        `v * pipe + p` is the v-th of stage p (the interleaved pipeline).
      remat: activations kept for the backward pass: "none" (all is kept), "full",
        "selective" or "mlp_preactivation", see `models.stages.REMAT_POLICIES`.
      zero: arrays split over the replicas: 0 nothing, 1 the state, 3 also the weights.
        0: each replica holds all weights. 1: parameters, gradients and optimizer state
        are split over `data`, gathered once a step (ZeRO-1). 3: each layer is gathered
        where it is used, and again in the backward pass.
      accumulate: dtype in which micro-batches add up their gradients: "float32", or
        "compute" for the model's compute dtype, which takes half the memory.
      pipeline: order of the passes, "gpipe" or "1f1b". "gpipe": all forward ticks, then
        all backward ones, so that every micro-batch keeps what `remat` says. "1f1b":
        one forward, one backward, which keeps it for three micro-batches in two
        stages, however many there are in all; losses that are not linear in the
        log-probs take one forward pass more.
      attention: kernel of the attention: "blocks", "cudnn", "splash", or "auto": the
        fastest that can run, see `models.attention_kernels`.

    Raises:
      UserError: a value that is none of these.
    """

    virtual_stages: int = 1
    remat: str = "none"
    zero: int = 0
    accumulate: str = "float32"
    pipeline: str = "gpipe"
    attention: str = AUTO

    def __post_init__(self):
        if self.virtual_stages < 1:
            raise UserError(f"virtual_stages={self.virtual_stages} must be positive")
        if self.zero not in ZERO_STAGES:
            raise UserError(f"zero={self.zero} is none of {ZERO_STAGES}")
        for name, known in (("accumulate", ACCUMULATE), ("pipeline", PIPELINES)):
            value = getattr(self, name)
            if value not in known:
                raise UserError(f"{name}={value!r} is none of {', '.join(known)}")


@dataclasses.dataclass(frozen=True)
class Layout(LayoutOptions):
    """A mesh and how the forward functions use it; hashable, so a static argument.

    Without options each replica holds all weights and nothing is computed again, which
    suits inference and small models.

    Attributes:
      mesh: axes `data, pipe, tensor`; default: one device.
      micro_batches: parts of a data share's rows that pass through the pipeline one
        after the other; None: single rows if there is a pipeline, else all at once.
    """

    mesh: Mesh = dataclasses.field(default_factory=_one_device)
    micro_batches: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        if self.micro_batches is not None and self.micro_batches < 1:
            raise UserError(f"micro_batches={self.micro_batches} must be positive")

    def size(self, *axes: str) -> int:
        """Returns the number of devices along mesh axes."""
        count = 1
        for axis in axes:
            count *= self.mesh.shape[axis]
        return count

    @property
    def platform(self) -> str:
        """Kind of the mesh's devices: "cpu", "gpu", "cuda" or "tpu"."""
        return self.mesh.devices.flat[0].platform

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability of the mesh's NVIDIA GPUs; (0, 0) of other devices."""
        found = getattr(self.mesh.devices.flat[0], "compute_capability", "")
        major, _, minor = str(found).partition(".")
        if not (major.isdecimal() and minor.isdecimal()):
            return 0, 0
        return int(major), int(minor)

    @property
    def chunks(self) -> int:
        """Number of parts that the layers are cut into."""
        return self.virtual_stages * self.size("pipe")

    def count_micro_batches(self, rows: int) -> int:
        """Returns the number of micro-batches of a batch with so many rows in all.

        Raises:
          UserError: the rows do not divide; the message says what would.
        """
        data, pipe = self.size("data"), self.size("pipe")
        if rows % (data * pipe):
            raise UserError(
                f"{rows} rows do not divide over data={data} x pipe={pipe}: use a "
                f"multiple of {data * pipe}"
            )
        share = rows // data
        count = self.micro_batches or (share if pipe > 1 else 1)
        if share % count or count % pipe:
            valid = [n for n in range(pipe, share + 1, pipe) if share % n == 0]
            raise UserError(
                f"micro_batches={count} must divide the {share} rows of a data share "
                f"and be a multiple of pipe={pipe}: use {', '.join(map(str, valid))}"
            )
        return count

    def head_groups(self, rows: int) -> int:
        """Returns the groups of consecutive rows of a batch that meet a head together.

        These are the micro-batches of all replicas in 1F1B, else the rows of a device.

        Raises:
          UserError: as `count_micro_batches`.
        """
        micro_batches = self.count_micro_batches(rows)
        in_share = micro_batches if self.pipeline == "1f1b" else self.size("pipe")
        return in_share * self.size("data")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayoutSpec(LayoutOptions):
    """A layout before there are devices: what users choose and the planner plans.

    The defaults fit large models: they keep little and split the optimizer's state.

    Attributes:
      data: number of replicas, each with its own rows.
      pipe: number of pipeline stages.
      tensor: number of devices that share each matrix.
      rows: sequences of a micro-batch; 0: as many as can be, in one micro-batch (with
        a pipeline one a stage) of each pass.
      passes: passes of the train step over parts of a batch, gradients added up; 0: one
        for each micro-batch, or with a pipeline one in all, since micro-batches pass
        through it together.

    Raises:
      UserError: a value that is none of these.
    """

    remat: str = "mlp_preactivation"
    zero: int = 1
    data: int = 1
    pipe: int = 1
    tensor: int = 1
    rows: int = 1
    passes: int = 0

    def __post_init__(self):
        super().__post_init__()
        for name in meshes.AXES:
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be positive")
        for name in ("rows", "passes"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} must not be negative")

    @property
    def devices(self) -> int:
        """Number of devices of the mesh."""
        return self.data * self.pipe * self.tensor

    def mesh(self, devices: Sequence[Any] | None = None) -> Mesh:
        """Makes the mesh, of these devices or those of all processes.

        Raises:
          UserError: there are fewer devices.
        """
        return meshes.make_mesh(self.data, self.pipe, self.tensor, devices=devices)

    def layout(self, mesh: Any = None, micro_batches: int | None = None) -> Layout:
        """Returns the layout on a mesh of these sizes; default: `self.mesh()`."""
        options = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(LayoutOptions)
        }
        mesh = self.mesh() if mesh is None else mesh
        return Layout(mesh, micro_batches=micro_batches, **options)

    def split(self, batch_rows: int, mesh: Any = None) -> tuple[Layout, int]:
        """Splits a batch into passes of the train step, and these into micro-batches.

        Args:
          batch_rows: sequences of the batch.
          mesh: mesh of `layout`.

        Returns:
          The layout with the micro-batches of a pass, and the number of passes.

        Raises:
          UserError: the rows do not divide; the message says what would.
        """
        multiple = self.data * max(self.rows, 1)
        if batch_rows % multiple:
            raise UserError(
                f"batch={batch_rows} does not divide over data={self.data} x "
                f"{self.rows} rows a micro-batch: use a multiple of {multiple}"
            )
        passes = self.passes or 1
        if self.rows and not self.passes and not self.pipelined:
            passes = batch_rows // multiple
        if batch_rows % (passes * multiple):
            count = batch_rows // multiple
            raise UserError(f"passes={passes} does not divide {count} micro-batches")
        return self.of_pass(batch_rows // passes, mesh), passes

    @property
    def pipelined(self) -> bool:
        """True where the micro-batches of a step go through the layers together."""
        return self.pipe * self.virtual_stages > 1 or self.pipeline == "1f1b"

    def of_pass(self, rows: int, mesh: Any = None) -> Layout:
        """Returns the layout of a pass with so many rows.

        Args:
          rows: rows of the pass, of all replicas.
          mesh: mesh of `layout`.

        Raises:
          UserError: the rows do not divide; the message says what would.
        """
        count = rows // (self.data * self.rows) if self.rows else self.pipe
        layout = self.layout(mesh, max(count, 1))
        layout.count_micro_batches(rows)
        return layout


# Options that suit small models: a micro-batch is a whole batch, all is kept, and each
# replica holds all.
WHOLE: dict[str, Any] = {"rows": 0, "zero": 0, "remat": "none"}

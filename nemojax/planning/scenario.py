"""What is planned: a model, a layout without devices, a batch, an accelerator."""

import dataclasses
import functools

from jax.sharding import AbstractMesh

from nemojax.models import partition, stages
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout
from nemojax.parallel.mesh import AXES
from nemojax.parallel.timetable import Timetable
from nemojax.planning.hardware import Hardware


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A training step that may never have run anywhere.

    Attributes:
      config: the model.
      hardware: one of its accelerators.
      data, pipe, tensor: sizes of the mesh axes.
      virtual_stages: chunks of layers a stage.
      global_batch: sequences a step.
      length: tokens a sequence.
      rows: sequences of a micro-batch.
      passes: of the train step over parts of the batch, gradients added up; 0: one a
        micro-batch, or one in all with a pipeline, through which they pass together.
      remat: a name of `models.stages.REMAT_POLICIES`.
      zero: as in `parallel.layout.Layout`.
      accumulate: as in `parallel.layout.Layout`.
      schedule: as in `parallel.layout.Layout`.

    Raises:
      ValueError: the sizes do not divide; the message says what would.
    """

    config: ModelConfig
    hardware: Hardware
    data: int = 1
    pipe: int = 1
    tensor: int = 1
    virtual_stages: int = 1
    global_batch: int = 1
    length: int = 4096
    rows: int = 1
    passes: int = 0
    remat: str = "mlp_preactivation"
    zero: int = 1
    accumulate: str = "float32"
    schedule: str = "gpipe"

    def __post_init__(self):
        for name in ("data", "pipe", "tensor", "global_batch", "length", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if self.global_batch % (self.data * self.rows):
            raise ValueError(
                f"global_batch={self.global_batch} does not divide over "
                f"data={self.data} x {self.rows} rows a micro-batch: use a multiple of "
                f"{self.data * self.rows}"
            )
        if self.micro_batches % self.accumulation_steps:
            raise ValueError(
                f"passes={self.passes} does not divide {self.micro_batches} "
                "micro-batches"
            )
        stages.check_remat(self.remat)
        partition.check(self.config, self.layout)
        if self.length % self.tensor:
            raise ValueError(
                f"tensor={self.tensor} does not divide {self.length} tokens a sequence"
            )
        self.layout.count_micro_batches(self.global_batch // self.accumulation_steps)

    @property
    def devices(self) -> int:
        """Accelerators of the mesh."""
        return self.data * self.pipe * self.tensor

    @property
    def micro_batches(self) -> int:
        """That pass through each pipeline in a step."""
        return self.global_batch // (self.data * self.rows)

    @property
    def accumulation_steps(self) -> int:
        """Passes of the train step over parts of the batch."""
        if self.passes:
            return self.passes
        single = self.pipe * self.virtual_stages == 1 and self.schedule == "gpipe"
        return self.micro_batches if single else 1

    @property
    def pipeline(self) -> Timetable:
        """The pipeline of a pass."""
        in_pass = self.micro_batches // self.accumulation_steps
        return Timetable(in_pass, self.virtual_stages, self.pipe)

    @property
    def waiting(self) -> int:
        """Chunks that wait with what they keep for their backward pass."""
        one_f_one_b = self.schedule == "1f1b"
        return self.pipeline.slots if one_f_one_b else self.pipeline.forward_ticks

    @property
    def layers_per_chunk(self) -> int:
        """Layers that a stage applies in a tick."""
        return self.config.num_layers // (self.pipe * self.virtual_stages)

    @functools.cached_property
    def layout(self) -> Layout:
        """The layout on a mesh that has sizes but no devices."""
        return self.on(AbstractMesh((self.data, self.pipe, self.tensor), AXES))

    def on(self, mesh) -> Layout:
        """The layout on a mesh."""
        blocks = self.hardware.platform == "cuda" or self.schedule == "1f1b"
        return Layout(
            mesh,
            virtual_stages=self.virtual_stages,
            micro_batches=self.micro_batches // self.accumulation_steps,
            remat=self.remat,
            zero=self.zero,
            attention="blocks" if blocks else None,
            accumulate=self.accumulate,
            schedule=self.schedule,
        )

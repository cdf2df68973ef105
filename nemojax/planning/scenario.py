"""Subject of a plan: a model, a layout without devices, a batch, an accelerator."""

import dataclasses
import functools
from typing import Any

from jax.sharding import AbstractMesh

from nemojax.errors import UserError
from nemojax.models import partition, stages
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import AUTO, Layout, LayoutSpec
from nemojax.parallel.mesh import AXES
from nemojax.parallel.timetable import Timetable
from nemojax.planning.alignment import Alignment
from nemojax.planning.hardware import Hardware


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A training step that may never have run anywhere.

    Attributes:
      config: the model.
      hardware: one of its accelerators.
      spec: the layout.
      global_batch: sequences a step.
      length: tokens a sequence.
      alignment: stage of alignment; None is pretraining. Sequences are rows then.

    Raises:
      UserError: the sizes do not divide; the message says what would.
    """

    config: ModelConfig
    hardware: Hardware
    spec: LayoutSpec = dataclasses.field(default_factory=LayoutSpec)
    global_batch: int = 1
    length: int = 4096
    alignment: Alignment | None = None

    def __post_init__(self):
        for name in ("global_batch", "length"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be positive")
        stages.check_remat(self.spec.remat)
        partition.check(self.config, self.spec.layout(self._mesh))
        tensor = self.spec.tensor
        if self.length % tensor:
            raise UserError(
                f"tensor={tensor} does not divide {self.length} tokens a sequence"
            )
        if self.alignment is not None and self.alignment.rank and self.spec.pipe > 1:
            raise UserError("adapters are trained without a pipeline: use pipe=1")
        self._split  # noqa: B018 - refuses a batch that does not divide

    @property
    def devices(self) -> int:
        """Number of accelerators of the mesh."""
        return self.spec.devices

    @functools.cached_property
    def _mesh(self) -> Any:
        """A mesh that has sizes but no devices."""
        spec = self.spec
        return AbstractMesh((spec.data, spec.pipe, spec.tensor), AXES)

    @property
    def passes(self) -> int:
        """Number of passes of the train step over parts of the batch."""
        return self._split[1]

    @property
    def micro_batches(self) -> int:
        """Number of micro-batches of a replica in a step."""
        return self.pipeline.micro_batches * self.passes

    @property
    def rows(self) -> int:
        """Sequences of a micro-batch."""
        return self.global_batch // (self.spec.data * self.micro_batches)

    @property
    def pipeline(self) -> Timetable:
        """The pipeline of a pass."""
        in_pass = self.layout.micro_batches or 1
        return Timetable(in_pass, self.spec.virtual_stages, self.spec.pipe)

    @property
    def waiting(self) -> int:
        """Chunks that wait with what they keep for their backward pass."""
        one_f_one_b = self.spec.pipeline == "1f1b"
        return self.pipeline.slots if one_f_one_b else self.pipeline.forward_ticks

    @property
    def replays(self) -> bool:
        """True where 1F1B takes another forward pass for the loss's derivatives."""
        linear = self.alignment is None or self.alignment.stage == "sft"
        return self.spec.pipeline == "1f1b" and not linear

    @property
    def layers_per_chunk(self) -> int:
        """Layers that a stage applies in a tick."""
        return self.config.num_layers // (self.spec.pipe * self.spec.virtual_stages)

    @property
    def layout(self) -> Layout:
        """The layout of a pass, on a mesh that has sizes but no devices."""
        return self._split[0]

    @functools.cached_property
    def _split(self) -> tuple[Layout, int]:
        return self.on(self._mesh)

    def on(self, mesh: Any) -> tuple[Layout, int]:
        """Returns the layout of a pass on a mesh, and the number of passes.

        cuDNN's attention asks the GPU that is there, so that a step for absent ones is
        compiled with blocks.
        """
        spec = self.spec
        if self.hardware.platform == "cuda" and spec.attention == AUTO:
            spec = dataclasses.replace(spec, attention="blocks")
        return spec.split(self.global_batch, mesh)

"""Planning a training run without the hardware."""

from typing import Any

from nemojax.models import presets
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import LayoutSpec
from nemojax.planning import hardware as accelerators
from nemojax.planning import report, roofline
from nemojax.planning.alignment import Alignment
from nemojax.planning.scenario import Scenario


def plan(
    model: str | ModelConfig,
    *,
    hardware: str = "h100",
    parallel: LayoutSpec | None = None,
    batch: int = 768,
    length: int = 4096,
    stage: Alignment | None = None,
    tokens: float = 0.0,
) -> dict[str, Any]:
    """Predicts memory and time of a training step on hardware that is not there.

    Args:
      model: the name of a preset, or a config.
      hardware: a name of `planning.hardware.HARDWARE`.
      parallel: the layout; default: one device.
      batch: sequences of a step.
      length: tokens of a sequence.
      stage: the stage of alignment; default: pretraining.
      tokens: tokens to train on; 0: no duration is given.

    Returns:
      What `experiments.plan --json` writes: parameters, bytes a device by kind and
      whether they fit, the seconds of a step by part, and for a preset the command.

    Raises:
      UserError: no such preset or hardware, or sizes that do not divide.
    """
    config = presets.get(model) if isinstance(model, str) else model
    spec = parallel or LayoutSpec()
    where = accelerators.get(hardware)
    scenario = Scenario(config, where, spec, batch, length, stage)
    found = report.result(scenario, roofline.Assumptions(), tokens=tokens)
    if isinstance(model, str):
        found["command"] = report.command(scenario, model)
    return found

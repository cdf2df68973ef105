"""The plan of a pretraining run: its phases with their memory and step time."""

from typing import Any

from nemojax.models import forward
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import LayoutSpec
from nemojax.planning import memory, roofline, search
from nemojax.planning.hardware import Hardware
from nemojax.planning.scenario import Scenario
from nemojax.training.schedule import Schedule

# float32 weights and two moments.
_CHECKPOINT_BYTES = 12


def plan(
    config: ModelConfig,
    schedule: Schedule,
    length: int,
    spec: LayoutSpec,
    accelerator: Hardware,
) -> dict[str, Any]:
    """Returns the run in numbers: phases with learning rates, memory and step time.

    Args:
      config: sizes of the model.
      schedule: batches and learning rate.
      length: tokens of a sequence.
      spec: the layout.
      accelerator: accelerator that memory and time are predicted for, as
        `experiments.plan` does.

    Raises:
      UserError: a batch does not divide.
    """
    parameters = forward.param_count(forward.shapes(config))
    phases = [
        {
            "batch": phase.batch,
            "first_step": phase.first_step,
            "steps": phase.steps,
            "samples": phase.steps * phase.batch,
            "tokens": phase.steps * phase.batch * length,
            "tokens_per_step": phase.batch * length,
            "learning_rate_first": schedule.rate_at(phase.first_step),
            "learning_rate_last": schedule.rate_at(phase.first_step + phase.steps - 1),
            **_predicted(Scenario(config, accelerator, spec, phase.batch, length)),
        }
        for phase in schedule.phases
    ]
    switch = schedule.switch_step
    samples = sum(phase["samples"] for phase in phases)
    return {
        "hardware": accelerator.title,
        "devices": spec.devices,
        "device_bytes": accelerator.memory_bytes,
        "parameters": parameters,
        "phases": phases,
        "steps": schedule.steps,
        "samples": samples,
        "tokens": samples * length,
        "warmup_samples": schedule.learning_rate.warmup,
        "decay_samples": schedule.learning_rate.decay or schedule.samples,
        "switch_step": switch,
        "switch_share": switch and schedule.at(switch)[0] / samples,
        "checkpoint_bytes": parameters * _CHECKPOINT_BYTES,
    }


def _predicted(scenario: Scenario) -> dict[str, Any]:
    return {
        "micro_batches": scenario.micro_batches,
        "passes": scenario.passes,
        "per_device_bytes": sum(memory.per_device(scenario).values()),
        "fits": search.fits(scenario),
        "step_seconds": roofline.predict(scenario).step_seconds,
    }


def text(found: dict[str, Any]) -> str:
    """Returns the plan as a table."""
    lines = [
        f"{found['parameters']:,} parameters; a checkpoint takes "
        f"{found['checkpoint_bytes'] / 1e9:,.1f} GB",
        "",
        "phase  batch  tokens/step       steps          tokens  learning rate",
    ]
    for number, phase in enumerate(found["phases"], 1):
        lines.append(
            f"{number:>5}  {phase['batch']:>5}  {phase['tokens_per_step']:>11,}  "
            f"{phase['steps']:>10,}  {phase['tokens'] / 1e9:>12,.3f} B  "
            f"{phase['learning_rate_first']:.4g} to {phase['learning_rate_last']:.4g}"
        )
    lines.append(
        f"  all                      {found['steps']:>10,}  "
        f"{found['tokens'] / 1e9:>12,.3f} B"
    )
    lines += ["", f"On {found['devices']:,} x {found['hardware']} (estimates):"]
    for number, phase in enumerate(found["phases"], 1):
        lines.append(
            f"{number:>5}  {phase['per_device_bytes'] / 2**30:,.2f} GiB a device of "
            f"{found['device_bytes'] / 2**30:.1f}, "
            + ("fits" if phase["fits"] else "DOES NOT FIT")
            + f"; {phase['step_seconds']:,.2f} s a step, {phase['micro_batches']:,} "
            f"micro-batches in {phase['passes']:,} passes"
        )
    lines.append(
        f"\nwarm-up until sample {found['warmup_samples']:,}, cosine until sample "
        f"{found['decay_samples']:,}"
    )
    if found["switch_step"] is not None:
        lines.append(
            f"second blend from step {found['switch_step']:,} on, after "
            f"{found['switch_share']:.1%} of the samples"
        )
    return "\n".join(lines)

"""A plan as a JSON object, as text for a terminal, and as a plot."""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from nemojax.parallel.layout import LayoutSpec
from nemojax.planning import counts, memory, roofline, search
from nemojax.planning.alignment import SCRIPTS, Alignment
from nemojax.planning.compiled import Compiled
from nemojax.planning.hardware import Hardware
from nemojax.planning.scenario import Scenario
from nemojax.planning.search import USABLE, Candidate
from nemojax.reporting import plots
from nemojax.training.schedule import PRESETS

GIB = 2**30
_BAR = 36


def command(scenario: Scenario, model: str) -> str:
    """Returns the command line of the script that runs what is planned.

    Args:
      scenario: scenario of the plan.
      model: name of the preset.
    """
    default = LayoutSpec()
    flags = {
        f"parallel.{name}": value
        for name, value in dataclasses.asdict(scenario.spec).items()
        if value != getattr(default, name)
    }
    flags = {"batch": scenario.global_batch, "length": scenario.length} | flags
    if scenario.alignment is not None:
        return _of_alignment(scenario.alignment, flags)
    own = PRESETS.get(f"{model}_pretrain")
    if own is not None and own.ramp_start != scenario.global_batch:
        flags["schedule.ramp_start"] = 0  # one batch size from the first step on
    given = " ".join(f"--{name}={value}" for name, value in flags.items())
    return f"python -m experiments.pretrain --model={model} {given}"


def _of_alignment(alignment: Alignment, flags: dict[str, Any]) -> str:
    """Returns the command of a stage; how many examples fill its rows is unknown."""
    del flags["batch"]
    if alignment.in_step:
        flags["reference"] = alignment.reference
    if alignment.rank:
        flags["lora.rank"] = alignment.rank
    given = " ".join(f"--{name}={value}" for name, value in flags.items())
    script = SCRIPTS[alignment.stage]
    files = "--model=MODEL --data=DATA --workdir=RUN --batch=EXAMPLES"
    return f"python -m experiments.{script} {files} {given}"


def result(
    scenario: Scenario,
    assumptions: roofline.Assumptions,
    compiled: Compiled | None = None,
    tokens: float = 0.0,
    price: float = 0.0,
) -> dict[str, Any]:
    """Returns everything that is known of a scenario.

    Args:
      scenario: scenario of the plan.
      assumptions: assumptions of the prediction.
      compiled: report of the compiler, if it ran.
      tokens: tokens to train on; 0: no duration is given.
      price: price of an hour of a device; 0: no cost is given.
    """
    config, hardware = scenario.config, scenario.hardware
    prediction = roofline.predict(scenario, assumptions)
    found: dict[str, Any] = {
        "hardware": hardware.title,
        "devices": scenario.devices,
        "layout": layout_of(scenario),
        "parameters": counts.parameters(config).to_json(),
        "flops_per_sequence": counts.flops_per_sequence(config, scenario.length),
        "flops_per_sequence_causal": counts.flops_per_sequence(
            config, scenario.length, causal=True
        ),
        "memory": memory_result(memory.per_device(scenario), hardware),
        "prediction": {
            **dataclasses.asdict(prediction),
            "step_seconds": prediction.step_seconds,
            "limit": prediction.limit,
            "assumptions": dataclasses.asdict(assumptions),
        },
    }
    a_step = scenario.global_batch * scenario.length
    found["prediction"]["tokens_per_second"] = a_step / prediction.step_seconds
    if tokens:
        hours = math.ceil(tokens / a_step) * prediction.step_seconds / 3600
        found["prediction"]["days"] = hours / 24
        found["prediction"]["device_hours"] = hours * scenario.devices
        if price:
            found["prediction"]["cost"] = hours * scenario.devices * price
    if compiled is not None:
        found["compiled"] = compiled_result(compiled)
    return found


def memory_result(parts: Mapping[str, float], hardware: Hardware) -> dict[str, Any]:
    """Returns bytes of a device by kind, all of them, and whether they fit."""
    needed = sum(parts.values())
    return {
        "per_device_bytes": needed,
        "device_bytes": hardware.memory_bytes,
        "fits": needed <= USABLE * hardware.memory_bytes,
        **parts,
    }


def layout_of(scenario: Scenario) -> dict[str, Any]:
    """Returns what a user chooses of a scenario, and the micro-batches that follow."""
    return dataclasses.asdict(scenario.spec) | {
        "rows": scenario.rows,
        "passes": scenario.passes,
        "micro_batches": scenario.micro_batches,
        "global_batch": scenario.global_batch,
        "sequence_length": scenario.length,
    }


def compiled_result(compiled: Compiled) -> dict[str, Any]:
    """Returns what the compiler found, as JSON."""
    return {
        "per_device_bytes": compiled.per_device_bytes,
        "arguments_bytes": compiled.arguments_bytes,
        "temporary_bytes": compiled.temporary_bytes,
        "seconds": round(compiled.seconds, 1),
        "collectives": {
            kind: {
                "count": count,
                "bytes": size,
                "in_loops": compiled.in_loops.get(kind, 0),
            }
            for kind, (count, size) in sorted(compiled.collectives.items())
        },
        "pipeline_problems": list(compiled.pipeline_problems),
    }


def text(found: Mapping[str, Any]) -> str:
    """Returns the plan for a terminal."""
    number, layout = found["parameters"], found["layout"]
    lines = [
        f"{number['total']:,} parameters ({number['embedding']:,} embedding), "
        f"{found['flops_per_sequence']:.4g} operations a sequence "
        f"(causal: {found['flops_per_sequence_causal']:.4g})",
        f"{found['devices']:,} x {found['hardware']}: "
        + ", ".join(f"{name}={value}" for name, value in layout.items()),
        "",
        "Memory of a device (GiB, estimate)",
        *memory_lines(found["memory"], memory.KINDS),
    ]
    prediction = found["prediction"]
    lines += ["", "A step (seconds, a model and no measurement)"]
    lines += bars(prediction["parts"], prediction["step_seconds"])
    lines.append(
        f"  {'all':<16} {prediction['step_seconds']:8.2f}: MFU {prediction['mfu']:.1%}"
        f" (causal {prediction['causal_mfu']:.1%}), "
        f"{prediction['tokens_per_second']:,.0f} tokens/s"
    )
    limit = prediction["limit"]
    shares = {
        name: prediction["parts"][name] / prediction["step_seconds"]
        for name in ("compute", limit)
    }
    lines.append(
        f"  compute is {shares['compute']:.0%} of it; the largest loss is {limit}, "
        f"{shares[limit]:.0%}"
    )
    if "days" in prediction:
        lines.append(
            f"  the tokens take {prediction['days']:,.1f} days, "
            f"{prediction['device_hours']:,.0f} device hours"
            + (f", a cost of {prediction['cost']:,.0f}" if "cost" in prediction else "")
        )
    assumed = prediction["assumptions"]
    lines.append(
        "  assumed: " + ", ".join(f"{name}={value}" for name, value in assumed.items())
    )
    if "compiled" in found:
        lines += ["", *_compiled_lines(found)]
    return "\n".join(lines)


def _compiled_lines(found: Mapping[str, Any]) -> list[str]:
    compiled, device = found["compiled"], found["memory"]["device_bytes"] / GIB
    total = compiled["per_device_bytes"] / GIB
    lines = [
        f"Compiled in {compiled['seconds']} s: {total:.2f} GiB a device of "
        f"{device:.1f} ({compiled['arguments_bytes'] / GIB:.2f} state and batch, "
        f"{compiled['temporary_bytes'] / GIB:.2f} temporary)"
    ]
    for kind, one in compiled["collectives"].items():
        lines.append(
            f"  {kind:<20} {one['count']:3d}, of them {one['in_loops']} in loops, "
            f"{one['bytes'] / GIB:.2f} GiB once each"
        )
    lines += [f"  PROBLEM: {problem}" for problem in compiled["pipeline_problems"]]
    if not compiled["pipeline_problems"]:
        lines.append("  pipeline: no loop computes an array of all weights anew")
    return lines


def memory_lines(found: Mapping[str, Any], kinds: Mapping[str, str]) -> list[str]:
    """Returns a line for each kind of memory, and one for all.

    Args:
      found: plan that `memory_result` gave.
      kinds: explanation of each kind.
    """
    device = found["device_bytes"] / GIB
    return [
        *bars({name: found[name] / GIB for name in kinds}, device, kinds),
        f"  {'all':<16} {found['per_device_bytes'] / GIB:8.2f} of {device:.1f}: "
        f"{'fits' if found['fits'] else 'DOES NOT FIT'} ({USABLE:.0%} can be used)",
    ]


def bars(
    parts: Mapping[str, float], whole: float, notes: Mapping[str, str] | None = None
) -> list[str]:
    """Returns a line for each part of a whole: its number, a bar and its name."""
    lines = []
    for name, value in parts.items():
        bar = "█" * round(_BAR * min(value / whole, 1.0))
        note = f"  {notes[name]}" if notes else ""
        lines.append(f"  {name:<16} {value:8.2f} {bar}{note}")
    return lines


def candidates_text(candidates: list[Candidate], model: str, most: int = 10) -> str:
    """Returns the best layouts as a table, with what limits each and its command."""
    header = (
        f"{'':2}{'data':>5}{'pipe':>5}{'tensor':>7}{'chunks':>7}{'rows':>5}{'passes':>7}"
        f"{'zero':>5}  {'remat':<18}{'order':<6}{'sums':<9}{'GiB':>7}"
        f"{'seconds':>9}{'MFU':>7}  limit"
    )
    lines = [header]
    for number, one in enumerate(candidates[:most], 1):
        scenario, p = one.scenario, one.prediction
        s = scenario.spec
        lines.append(
            f"{number:2d}{s.data:5d}{s.pipe:5d}{s.tensor:7d}{s.virtual_stages:7d}{s.rows:5d}"
            f"{scenario.passes:7d}{s.zero:5d}  {s.remat:<18}{s.pipeline:<6}"
            f"{s.accumulate:<9}"
            f"{one.bytes_per_device / GIB:7.1f}{p.step_seconds:9.2f}{p.mfu:7.1%}"
            f"  {p.limit}"
        )
    lines.append("")
    for number, one in enumerate(candidates[:most], 1):
        lines.append(f"{number:2d} {command(one.scenario, model)}")
    return "\n".join(lines)


def too_large(scenario: Scenario, found: Mapping[str, Any]) -> str:
    """Explains by how much a plan does not fit, why, and what would."""
    message = over(found["memory"], memory.KINDS)
    nearest = search.nearest(scenario)
    if nearest is None:
        enough = search.enough_devices(
            scenario.config, scenario.hardware, scenario.devices,
            scenario.global_batch, scenario.length,
        )  # fmt: skip
        more = f", one of {enough} does" if enough else ""
        return f"{message}; no layout of {scenario.devices} devices fits{more}"
    now, then = layout_of(scenario), layout_of(nearest.scenario)
    changes = [f"{name}={then[name]}" for name in then if then[name] != now[name]]
    return f"{message}; the nearest layout that fits: {', '.join(changes)}"


def over(found: Mapping[str, Any], kinds: Iterable[str]) -> str:
    """Says by how much memory does not fit, and which kind takes the most."""
    room = USABLE * found["device_bytes"]
    largest = max(kinds, key=found.__getitem__)
    return (
        f"does not fit: {(found['per_device_bytes'] - room) / GIB:.1f} GiB too much on "
        f"each device, most of it {largest} ({found[largest] / GIB:.1f} GiB)"
    )


@plots.styled
def plot(found: Mapping[str, Any], path: pathlib.Path) -> None:
    """Writes the bars of memory and time; the name's ending says which format."""
    kinds = {name: found["memory"][name] / GIB for name in memory.KINDS}
    parts = found["prediction"]["parts"]
    figure, grid = plots.grid(2, 1, 9, 3.6)
    axes = list(grid.flat)
    device = found["memory"]["device_bytes"] / GIB
    _stack(axes[0], kinds, "GiB a device")
    axes[0].axvline(device, color="black", linewidth=1)
    _stack(axes[1], parts, f"seconds a step, MFU {found['prediction']['mfu']:.1%}")
    figure.suptitle(f"{found['devices']:,} x {found['hardware']}", fontsize=10)
    plots.write(figure, path)


def _stack(axis: Any, parts: Mapping[str, float], label: str) -> None:
    left = 0.0
    for name, value in parts.items():
        axis.barh([0], [value], left=left, label=name)
        left += value
    axis.set_yticks([])
    axis.set_xlabel(label)
    axis.legend(ncol=5, loc="upper center", bbox_to_anchor=(0.5, 1.45))

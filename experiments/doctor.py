"""Examination of a machine: can jax use its devices, and how fast are they.

    python -m experiments.doctor
    python -m experiments.doctor --model=minitron_4b --dtype=bfloat16

MODEL is a preset, a model folder or a Hugging Face checkpoint. Prints packages and
cards with their versions, the devices that jax has started with their memory, the host,
the flags of XLA and NCCL in force, the smallest memory of the model, the attention
kernel that its training takes with what the others lack, and the rates of a matrix
product and of a copy, beside what is published of the card. Takes about ten seconds.

Exit status 0: the machine is fit; 1: it is not, and a line for each fault says what
mends it. A machine without a GPU is fit, too, and learns what one would need.
"""

import dataclasses
import pathlib
from typing import Any

from absl import flags

from nemojax.cli import command
from nemojax.parallel import fitness, machine

FLAGS = flags.FLAGS
DTYPES = ("float32", "bfloat16", "float16")
flags.DEFINE_string("model", "nano", "preset, model folder or Hugging Face checkpoint")
flags.DEFINE_enum(
    "dtype", None, DTYPES, "dtype of the computation; default: the model's"
)
flags.DEFINE_integer("length", 0, "tokens of a row; 0: the model's context", 0)
flags.DEFINE_float("seconds", 3.0, "time to measure for; 0: nothing is measured", 0)
command.define_json()


def of_machine(here: machine.Machine) -> list[str]:
    """Returns lines about packages, driver, cards, devices, host and flags."""
    lines = [f"packages     {', '.join(f'{n} {v}' for n, v in here.versions.items())}"]
    if not here.gpus:
        lines.append("GPU          nvidia-smi lists none")
    lines += [
        f"GPU {gpu.index}        {gpu.name}, driver {gpu.driver}, compute capability "
        f"{'.'.join(map(str, gpu.capability))}, {_size(gpu.used_bytes)} of "
        f"{_size(gpu.memory_bytes)} in use"
        for gpu in here.gpus
    ]
    for device in here.devices:
        limit = f", jax takes {_size(device.limit_bytes)}" if device.limit_bytes else ""
        pinned = "" if device.pinned else ", no pinned memory"
        lines.append(f"device       {device.platform}: {device.kind}{limit}{pinned}")
    locked = "any" if here.locked_bytes < 0 else _size(here.locked_bytes)
    memory = _size(here.memory_bytes)
    lines.append(f"host         {here.cores} cores, {memory}, of it to lock {locked}")
    lines += [f"environment  {n}={v}" for n, v in here.environment.items()]
    return lines


def of_model(here: machine.Machine) -> tuple[dict[str, Any], list[str], list[str]]:
    """Returns what the devices would do with the model: facts, lines and problems.

    Raises:
      UserError: there is no such model.
    """
    # Not above: jax may be what does not start.
    from nemojax.interop import find, loading
    from nemojax.models import attention_kernels, presets
    from nemojax.parallel.layout import Layout
    from nemojax.planning import local

    name = FLAGS.model
    if name in presets.PRESETS or not pathlib.Path(name).exists():
        config = presets.get(name)
    else:
        config = loading.read_config(find.find_model(name))
    dtype, length = FLAGS.dtype or config.compute_dtype, FLAGS.length
    config = dataclasses.replace(config, compute_dtype=dtype)
    layout, length = Layout(), length or config.max_positions
    case = attention_kernels.Case(
        layout.platform, dtype, config.head_dim, length, layout.capability
    )
    taken, others = local.attention(case)
    limit = sum(device.limit_bytes for device in here.devices)
    memory = local.memory(config, limit or here.memory_bytes)
    found = {"taken": taken, "others": others, "dtype": dtype, "length": length}
    title = f"{name} in {dtype}"
    lines = [
        f"model        {title}: weights {_size(memory['weights_bytes'])}, state of "
        f"training {_size(memory['training_bytes'])}, devices have "
        f"{_size(memory['available_bytes'])}",
        f"training     attention {taken} ({title}, rows of {length} tokens)",
        *(
            f"             {name} {'needs ' + lacks if lacks else 'is slower'}"
            for name, lacks in others.items()
        ),
        "generation   attention in blocks of the cache, the same on every device",
    ]
    too_large = (
        f"the weights of {title} do not fit the devices: take more of them, or a "
        "smaller model (python -m experiments.plan says what fits)"
    )
    found = {"attention": found, "memory": memory}
    return found, lines, [] if memory["fits"] else [too_large]


def of_rates(here: machine.Machine) -> tuple[dict[str, Any], list[str], list[str]]:
    """Returns how fast the first device is: facts, lines and problems."""
    from nemojax.parallel import rates
    from nemojax.planning import local

    measured, card = rates.measure(FLAGS.seconds), local.card(here.devices[0].kind)
    found = dataclasses.asdict(measured)
    product = f"{measured.flops / 1e12:,.3g} TFLOP/s"
    copy = f"{measured.copied / 1e9:,.4g} GB/s"
    if card is not None:
        product += f", {measured.flops / card.peak_flops:.0%} of the published peak"
        copy += f", {measured.copied / card.memory_bandwidth:.0%} of the published peak"
    lines = [
        f"product      {measured.size} x {measured.size}, {measured.dtype}: {product}",
        f"copy         {copy}",
    ]
    return {"rates": found}, lines, local.slow(found, card) if card else []


def run() -> int:
    """Examines the machine."""
    here = machine.look(devices=True)
    found: dict[str, Any] = {"machine": dataclasses.asdict(here)}
    lines = of_machine(here)
    faults = fitness.problems(here)
    parts = [of_model, *([of_rates] if FLAGS.seconds else [])]
    for part in parts if here.devices else []:
        facts, more, wrong = part(here)
        found, lines, faults = found | facts, lines + more, faults + wrong
    if all(device.platform == "cpu" for device in here.devices):
        lines.append(f"for a GPU    {fitness.for_gpu()}")
    lines += [f"NOT FIT      {line}" for line in faults] or ["fit"]
    found["problems"] = faults
    command.print_result(found, "\n".join(lines), FLAGS.json)
    return 1 if faults else command.SUCCESS


def _size(nbytes: float) -> str:
    if nbytes < 2**30:
        return f"{nbytes / 2**20:,.1f} MiB"
    return f"{nbytes / 2**30:,.1f} GiB"


if __name__ == "__main__":
    command.start(run, unfit=True)

"""Plan of a training run without the hardware: does it fit, how fast, and why.

    python -m experiments.plan --model=nemotron4_340b --hardware=h100 \\
        --parallel.data=16 --parallel.pipe=12 --parallel.tensor=8 \\
        --parallel.virtual_stages=8 --batch=768
    python -m experiments.plan --model=llama31_70b --hardware=h200 --search=8 \\
        --batch=64
    python -m experiments.plan --serve=fp8 --parallel.tensor=8 --slots=32
    python -m experiments.plan --stage=dpo --reference=in_step --parallel.data=2 \\
        --parallel.pipe=12 --parallel.tensor=8 --batch=96
    ... --compile      also compiles the real programs for that hardware

Prints parameters, operations, memory by kind and the predicted step by part, with all
that is assumed, and the command that trains so. The estimate takes seconds.
`--compile` takes about half a minute for 340B on thousands of devices and needs the
extra `aot` (a compiler, no device); `--search=DEVICES` ranks the layouts of so many
devices. `--stage` plans alignment
instead: SFT, a reward model, DPO or RPO. `--serve=WEIGHTS` plans
answering instead of training: weights, cache and working memory; the two programs of
340B compile in minutes.

Exit status 0: it fits; 1: it does not, and the message says by how much, which part is
the largest, and the nearest layout that fits; 2: the sizes do not divide.
"""

import os
import pathlib
import sys

# Nothing runs here, and the CUDA plugin must not look for a GPU.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

from absl import flags

from nemojax.cli import command, dataclass_flags, layout_flags
from nemojax.errors import UserError
from nemojax.models import presets
from nemojax.planning import alignment, hardware, report, roofline, search, serving
from nemojax.planning import compiled as compiling
from nemojax.planning.alignment import Alignment
from nemojax.planning.scenario import Scenario

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "nemotron4_340b", list(presets.PRESETS), "the architecture")
flags.DEFINE_enum("hardware", "h100", list(hardware.HARDWARE), "the accelerator")
layout_flags.define()
dataclass_flags.define("assume", roofline.Assumptions())
flags.DEFINE_integer("batch", 768, "sequences of a step", lower_bound=1)
flags.DEFINE_integer("length", 4096, "tokens of a sequence", lower_bound=1)
flags.DEFINE_float(
    "tokens", 0.0, "tokens to train on: also prints days and device hours", 0
)
flags.DEFINE_float("price_per_gpu_hour", 0.0, "also prints the cost of --tokens", 0)
flags.DEFINE_bool("compile", False, "compile the real step for that hardware")
flags.DEFINE_integer("search", 0, "rank the layouts of so many devices", lower_bound=0)
flags.DEFINE_enum("serve", None, serving.WEIGHTS, "plan answering with these weights")
flags.DEFINE_integer("slots", 32, "texts answered at a time (--serve)", lower_bound=1)
flags.DEFINE_enum(
    "stage", None, list(alignment.SCRIPTS), "plan alignment; --batch are its rows"
)
flags.DEFINE_enum(
    "reference", alignment.CACHED, alignment.REFERENCES, "log-probs of --stage=dpo, rpo"
)
flags.DEFINE_integer("lora.rank", 0, "rank of adapters (--stage); 0: none", 0)
command.define_json()
flags.DEFINE_string("plot", None, "also draw the bars there (.png or .svg)")


def chosen() -> tuple[Scenario, str]:
    """Returns the scenario of the flags, or the search's best; and the search's table.

    Raises:
      UserError: no such preset or hardware, sizes that do not divide, or no layout.
    """
    config, accelerator = presets.get(FLAGS.model), hardware.get(FLAGS.hardware)
    batch, length = FLAGS.batch, FLAGS.length
    if not FLAGS.search:
        spec, stage = layout_flags.chosen(), None
        if FLAGS.stage:
            stage = Alignment(
                FLAGS.stage, FLAGS.reference, int(FLAGS["lora.rank"].value or 0)
            )
        return Scenario(config, accelerator, spec, batch, length, stage), ""
    if FLAGS.stage:
        raise UserError("--search is about pretraining: leave out --stage")
    found = search.search(
        config, accelerator, FLAGS.search, batch, length, assumptions()
    )
    if not found:
        asked = config, accelerator, FLAGS.search, batch, length
        fewer, more = search.smaller_batch(*asked), search.enough_devices(*asked)
        advice = f"take {more or 'more'} devices"
        advice += f", or --batch={fewer}" if fewer else ""
        raise UserError(
            f"no layout of {FLAGS.search} x {accelerator.title} fits {FLAGS.model} "
            f"with {batch} sequences of {length} tokens: {advice}"
        )
    return found[0].scenario, report.candidates_text(found, FLAGS.model) + "\n\n"


def assumptions() -> roofline.Assumptions:
    """Returns the assumptions of the flags."""
    return dataclass_flags.build("assume", roofline.Assumptions())


def serve() -> int:
    """Plans a server of the model."""
    parallel = layout_flags.chosen()
    if parallel.pipe != 1 or FLAGS.search or FLAGS.plot:
        raise UserError("--serve takes no pipeline, no --search and no --plot")
    planned = serving.Serving(
        presets.get(FLAGS.model), hardware.get(FLAGS.hardware), FLAGS.serve,
        parallel.data, parallel.tensor, FLAGS.slots, FLAGS.length,
    )  # fmt: skip
    compiled = serving.compile_programs(planned) if FLAGS.compile else None
    found = serving.result(planned, compiled)
    command.print_result(found, serving.text(found), FLAGS.json)
    if found["memory"]["fits"]:
        return command.SUCCESS
    print(serving.too_large(found), file=sys.stderr)
    return 1


def run() -> int:
    """Plans what the flags name."""
    if FLAGS.serve:
        return serve()
    scenario, table = chosen()
    compiled = compiling.compile_step(scenario) if FLAGS.compile else None
    if FLAGS.price_per_gpu_hour and not FLAGS.tokens:
        raise UserError(
            "--price_per_gpu_hour needs --tokens: the cost is that of a run"
        )
    found = report.result(
        scenario, assumptions(), compiled, FLAGS.tokens, FLAGS.price_per_gpu_hour
    )
    found["command"] = report.command(scenario, FLAGS.model)
    text = f"{table}{report.text(found)}\n\nRuns it:\n  {found['command']}"
    command.print_result(found, text, FLAGS.json)
    if FLAGS.plot:
        report.plot(found, pathlib.Path(FLAGS.plot))
    if found["memory"]["fits"]:
        return command.SUCCESS
    print(report.too_large(scenario, found), file=sys.stderr)
    return 1


if __name__ == "__main__":
    command.start(run)

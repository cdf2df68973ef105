"""What a deeper model costs the compiler, and each device: 12 to 96 layers of 340B.

    python -m benchmarks.layers

Compiles the train step for 1,536 absent H100s (extra `aot`) with each number of layers,
and prints bytes per device by the compiler and seconds of compilation: the first grow
with the layers, the second do not, since layers, chunks and micro-batches are loops.
"""

import dataclasses
import os

# Nothing runs here, and the CUDA plugin must not look for a GPU.
os.environ["JAX_PLATFORMS"] = "cpu"

from absl import app, flags

from nemojax.models import presets
from nemojax.parallel.layout import LayoutSpec
from nemojax.planning import compiled, hardware
from nemojax.planning.scenario import Scenario

FLAGS = flags.FLAGS
flags.DEFINE_multi_integer("layers", [12, 24, 48, 96], "multiples of 12")


def main(argv: list[str]) -> None:
    del argv
    print(f"{'pipeline':<10}{'remat':<19}{'layers':>7}{'GiB':>7}{'seconds':>9}")
    for pipeline, remat in (("gpipe", "mlp_preactivation"), ("1f1b", "selective")):
        for layers in FLAGS.layers:
            scenario = Scenario(
                dataclasses.replace(presets.nemotron4_340b(), num_layers=layers),
                hardware.get("h100"),
                LayoutSpec(
                    data=16,
                    pipe=12,
                    tensor=8,
                    virtual_stages=layers // 12,
                    remat=remat,
                    pipeline=pipeline,
                ),
                global_batch=768,
            )
            found = compiled.compile_step(scenario)
            print(
                f"{pipeline:<10}{remat:<19}{layers:>7}"
                f"{found.per_device_bytes / 2**30:>7.1f}{found.seconds:>9.1f}",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)

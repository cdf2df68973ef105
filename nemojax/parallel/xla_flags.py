"""XLA flags for clusters, in one table; the launch files read it.

    export XLA_FLAGS="$(python -m nemojax.parallel.xla_flags h100)"

Sources: the GPU performance guides of jax and of NVIDIA's JAX toolbox. A flag that the
installed jaxlib does not know would end the process at its start; a test tries them.
"""

import sys

# Combining threshold: about the weights of one layer, so that a step's gathers and
# scatters are few and large.
_LAYER_BYTES = 2**30
_H100 = {
    # Communication runs beside compute, and loops are unrolled by two for it.
    "xla_gpu_enable_latency_hiding_scheduler": "true",
    "xla_gpu_enable_while_loop_double_buffering": "true",
    "xla_gpu_enable_pipelined_all_gather": "true",
    "xla_gpu_enable_pipelined_reduce_scatter": "true",
    "xla_gpu_enable_pipelined_all_reduce": "true",
    # The exchange between stages.
    "xla_gpu_enable_pipelined_p2p": "true",
    "xla_gpu_collective_permute_decomposer_threshold": "1024",
    "xla_gpu_all_gather_combine_threshold_bytes": str(_LAYER_BYTES),
    "xla_gpu_reduce_scatter_combine_threshold_bytes": str(_LAYER_BYTES),
    "xla_gpu_all_reduce_combine_threshold_bytes": str(_LAYER_BYTES),
    # The guides leave large products to cuBLAS.
    "xla_gpu_enable_triton_gemm": "false",
    # NCCL waits for a lost peer for ever by default (-1), and a job hangs in silence.
    "xla_gpu_nccl_termination_timeout_seconds": "600",
}
FLAGS = {"h100": _H100, "h200": _H100}


def text(hardware: str) -> str:
    """Returns the value of XLA_FLAGS.

    Raises:
      ValueError: there is no table for that hardware.
    """
    if hardware not in FLAGS:
        raise ValueError(f"no flags for {hardware!r}; there are {', '.join(FLAGS)}")
    return " ".join(f"--{name}={value}" for name, value in FLAGS[hardware].items())


if __name__ == "__main__":
    print(text(*sys.argv[1:]))

"""The process of a part: `python -m benchmarks.gpu.worker PART FILE SMALL MEASURED`.

Rows go to FILE, a JSON object a line; the first tells the device, and one that holds
nothing but `failed` tells why the part ended.
"""

import importlib
import json
import sys
import traceback
from pathlib import Path

from benchmarks.gpu.job import Job, reason


def main(part: str, file: str, small: str, measured: str) -> int:
    """Runs a part; returns the exit status."""
    job = Job(Path(file), small == "small", json.loads(Path(measured).read_text()))
    try:
        module = importlib.import_module(f"benchmarks.gpu.{part}")
        job.row(_device())
        module.run(job)
    except Exception as error:
        traceback.print_exc()
        job.row({"failed": reason(error)})
        return 1
    return 0


def _device() -> dict[str, str]:
    jax = importlib.import_module("jax")
    return {"device": jax.devices()[0].device_kind, "platform": jax.default_backend()}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Two processes joined over the loopback, and what they hand each other."""

import json
import os
import socket
import subprocess
import sys
import textwrap

PROGRAM = """
import json, sys
import jax
import numpy as np
from nemojax.parallel import distributed, processes

number = int(sys.argv[2])
distributed.initialize(distributed.detect(sys.argv[1], 2, number))
found = {"first": processes.is_process_0(), "total": processes.total(number + 1)}
value = {"from": number, "text": "für"}
found["value"] = processes.broadcast_from_process_0(lambda: value)
found["nothing"] = processes.broadcast_from_process_0(lambda: None)
mine = np.array([[np.nan, -0.0], [1e-42, number]], np.float32)
found["bits"] = processes.broadcast_array_from_process_0(mine).view(np.uint32).tolist()

def fails():
    raise OSError(28, f"no space for {number}")

try:
    processes.broadcast_from_process_0(fails)
except (OSError, processes.FirstProcessError) as error:
    found["error"] = [type(error).__name__, str(error)]
processes.barrier("end")
print("found", json.dumps(found))
"""


def test_what_the_first_has_or_cannot_do_all_know():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["", *sys.path])}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), address, str(number)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(2)
    ]
    found = []
    for process in both:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        line = next(one for one in out.splitlines() if one.startswith("found "))
        found.append(json.loads(line.removeprefix("found ")))
    assert [one.pop("first") for one in found] == [True, False]
    errors = [one.pop("error") for one in found]
    assert errors == [
        ["OSError", "[Errno 28] no space for 0"],
        [
            "FirstProcessError",
            "the first process ended with OSError: [Errno 28] no space for 0",
        ],
    ]
    assert found[0] == found[1]
    assert found[0]["total"] == 3
    assert found[0]["value"] == {"from": 0, "text": "für"}
    assert found[0]["bits"] == [[0x7FC00000, 0x80000000], [714, 0]]

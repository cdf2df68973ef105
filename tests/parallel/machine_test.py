"""Facts about a machine as drivers and packages write them."""

import os
import subprocess
import sys

from nemojax.parallel import machine
from nemojax.parallel.machine import Gpu

LISTED = """\
0, NVIDIA H100 80GB HBM3, 580.65.06, 9.0, 81559, 4
1, "Card, with a comma", 470.42.01, [N/A], [N/A], [N/A]
"""


def test_gpus_are_read_as_the_driver_lists_them():
    assert machine.gpus(LISTED) == (
        Gpu(0, "NVIDIA H100 80GB HBM3", "580.65.06", (9, 0), 81559 * 2**20, 4 * 2**20),
        Gpu(1, "Card, with a comma", "470.42.01"),
    )
    assert machine.gpus("No devices were found\n") == ()


def test_a_driver_is_asked_by_its_program_and_may_be_broken(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{LISTED.splitlines()[0]}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert machine.look().gpus == machine.gpus(LISTED)[:1]
    program.write_text(program.read_text() + "exit 9\n")
    assert machine.look().gpus == ()


def test_lowest_versions_are_those_of_what_is_always_or_with_cuda_installed():
    assert machine.minimums(
        [
            "jaxlib<=0.12.0.1,>=0.11.2",
            "opt_einsum",
            'nvidia-cudnn-cu13<10.0,>=9.12.0.46; sys_platform == "linux" and extra == '
            '"with-cuda"',
            'jaxlib<=0.12.0.1,>=0.12.0.1; extra == "tpu"',
            "jax-cuda13-pjrt==0.12.0.1",
        ]
    ) == {"jaxlib": "0.11.2", "nvidia-cudnn-cu13": "9.12.0.46"}


def test_devices_are_those_of_jax():
    import jax

    found = machine.look(devices=True)
    assert [device.platform for device in found.devices] == ["cpu"] * jax.device_count()
    assert found.versions["jax"] == jax.__version__
    assert found.error == "" and found.cores >= 1 and found.memory_bytes > 2**28


def test_looking_at_packages_does_not_load_jax():
    code = (
        "import sys; from nemojax.parallel import fitness, machine;"
        "fitness.problems(machine.look()); sys.exit('jax' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["", *sys.path])}
    assert not subprocess.run([sys.executable, "-c", code], env=environment).returncode

"""What a command asks of the machine."""

import os
import platform
import subprocess
import sys

import pytest

from nemojax.cli import host

# Page faults of the last of some rounds that write 64 MB and free them.
FAULTS = """
import resource, sys
import numpy as np
from nemojax.cli import host
if sys.argv[1] == "keep":
    host.keep_memory()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(2**23, 1.5)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "--xla_force_host_platform_device_count=2"),
        ("--other", "--other --xla_force_host_platform_device_count=2"),
        (
            "--xla_force_host_platform_device_count=5",
            "--xla_force_host_platform_device_count=5",
        ),
    ],
)
def test_devices_are_set_unless_the_user_did(before, after, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    monkeypatch.setenv("XLA_FLAGS", before)
    host.cpu_devices()
    assert os.environ["XLA_FLAGS"] == after


def test_a_single_core_gets_a_single_device(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setenv("XLA_FLAGS", "")
    host.cpu_devices()
    assert os.environ["XLA_FLAGS"].endswith("=1")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again_without_page_faults():
    def faults(how):
        out = subprocess.check_output([sys.executable, "-c", FAULTS, how], text=True)
        return int(out)

    assert faults("keep") < 10
    # numpy asks for huge pages: 32 faults are 64 MB, or 16,384 where there are none.
    assert faults("leave") >= 30

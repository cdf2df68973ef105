"""What a command asks of the machine."""

import os
import platform
import subprocess
import sys

import pytest

from nemojax.cli import host

# A process that compiles a little, and says where it is kept and how much was new.
COMPILE = """
import sys
from nemojax.cli import host
host.keep_compiled()
import jax
import jax.numpy as jnp
found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: jnp.sin(x @ x))(jnp.ones((3, 3)))
print(jax.config.jax_compilation_cache_dir)
print(found.count("/jax/compilation_cache/cache_misses"))
"""
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


def compiled(home, **environment):
    """Returns where a process keeps what it compiles, and how much of it was new."""
    kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    out = subprocess.check_output(
        [sys.executable, "-c", COMPILE],
        env=kept | {"XDG_CACHE_HOME": str(home)} | environment,
        text=True,
    )
    folder, new = out.split()
    return folder, int(new)


def test_a_second_process_compiles_nothing_that_the_first_one_did(tmp_path):
    folder, new = compiled(tmp_path)
    assert folder.startswith(str(tmp_path / "nemojax" / "compiled-")) and new
    assert compiled(tmp_path) == (folder, 0)
    elsewhere = str(tmp_path / "mine")
    assert compiled(tmp_path, JAX_COMPILATION_CACHE_DIR=elsewhere)[0] == elsewhere
    (tmp_path / "file").touch()
    assert compiled(tmp_path / "file")[0] == "None"


def test_what_was_used_least_lately_is_removed_when_the_folder_is_full(tmp_path):
    for age, name in enumerate(("newest", "middle", "oldest")):
        path = tmp_path / name
        path.write_bytes(b"x" * 100)
        os.utime(path, (1e9 - age, 1e9))
    host._remove_oldest(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["middle", "newest"]

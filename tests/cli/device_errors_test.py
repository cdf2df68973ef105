"""Devices that do not start, or are too small: every command says it in one line."""

import logging
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from nemojax.cli import command, command_line, device_errors
from nemojax.parallel import machine

DOCTOR = "; python -m experiments.doctor says more\n"
STARTS = (
    "import sys, jax; from nemojax.cli import command;"
    "sys.exit(command.main(lambda: len(jax.devices()) and 0))"
)


def run(*arguments: str, paths: tuple[str, ...] = (), **environment: str):
    """Runs Python as a user does, without what the tests set."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    kept["PYTHONPATH"] = os.pathsep.join([*paths, "", *sys.path])
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        env=kept | environment,
        text=True,
    )


@pytest.mark.parametrize(
    ("platforms", "line"),
    [
        ("cuda", "JAX_PLATFORMS=cuda, but no "),
        ("tpu", "JAX_PLATFORMS=tpu, but libtpu is not installed: pip install -U 'jax["),
        ("abacus", "jax's devices do not start: Unable to initialize backend 'abacus'"),
    ],
)
def test_platforms_that_are_absent_are_told_in_one_line(platforms, line):
    here = machine.installed()
    if (platforms == "tpu" and "libtpu" in here.versions) or here.nvidia:
        pytest.skip("it may be there")
    done = run("-c", STARTS, JAX_PLATFORMS=platforms)
    assert done.returncode == command.BAD_INPUT
    assert done.stderr.startswith(line) and done.stderr.endswith(DOCTOR)
    assert done.stderr.count("\n") == 1


@pytest.fixture
def old_plugin(tmp_path) -> str:
    """A folder that a plugin of another version is installed in."""
    about = tmp_path / "jax_cuda13_plugin-0.1.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text("Metadata-Version: 2.1\nName: jax-cuda13-plugin\nVersion: 0.1\n")
    return str(tmp_path)


def test_a_plugin_of_another_version_is_refused_by_commands_and_listed_by_doctor(
    old_plugin,
):
    start = f"jax-cuda13-plugin 0.1 does not fit jaxlib {jax.lib.__version__}: "
    command_line = ("-m", "experiments.quantize", "--model=m", "--data=d")
    done = run(*command_line, paths=(old_plugin,), JAX_PLATFORMS="cuda")
    assert done.returncode == command.BAD_INPUT
    assert done.stderr.startswith(start) and done.stderr.endswith(DOCTOR)
    assert done.stderr.count("\n") == 1
    done = run("-m", "experiments.doctor", "--seconds=0", paths=(old_plugin,))
    assert done.returncode == 1
    assert f"NOT FIT      {start}" in done.stdout


def too_large() -> int:
    jax.jit(lambda: jnp.zeros(2**50, jnp.int8))().block_until_ready()
    return 0


def test_too_small_a_device_is_told_with_the_way_out(capsys, monkeypatch):
    monkeypatch.delenv("JAX_TRACEBACK_FILTERING", raising=False)
    assert command.main(too_large) == command.TOO_LARGE
    line = capsys.readouterr().err
    assert line.startswith("the devices are too small: Out of memory allocating ")
    assert "more or larger devices (python -m experiments.plan says" in line
    assert line.count("\n") == 1


def test_the_way_out_is_made_of_flags_of_the_script(script):
    known = set()
    for name in ("pretrain", "serve", "score"):
        script(name)
        known |= {flag.name for flag in command_line.own_flags()}
    assert device_errors._SMALLER.keys() <= known
    error = RuntimeError("step")
    error.__cause__ = RuntimeError("RESOURCE_EXHAUSTED: Failed to allocate 5 bytes.\na")
    line = device_errors.no_memory(error)
    assert line.startswith(
        "the devices are too small: Failed to allocate 5 bytes: take"
    )
    assert "--batch_tokens" in line and "--slots" not in line
    assert device_errors.no_memory(RuntimeError("RESOURCE_EXHAUSTED: too long")) == ""


def test_its_traceback_is_there_for_who_wants_all_tracebacks(monkeypatch):
    monkeypatch.setenv("JAX_TRACEBACK_FILTERING", "off")
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        command.main(too_large)


def plugin_fails() -> int:
    """Logs what jax logs of a plugin that raises, after which it takes the CPU."""
    try:
        raise RuntimeError("Unable to load cuDNN. Is it installed?")
    except RuntimeError:
        logging.getLogger("jax._src.xla_bridge").exception("Jax plugin configuration")
    return 0


@pytest.mark.parametrize(
    ("there", "platforms", "status"),
    [(True, "", 2), (True, "cuda", 2), (True, "cpu", 0), (False, "", 0)],
)
def test_a_gpu_that_is_there_is_not_left_out_in_silence(
    there, platforms, status, monkeypatch, capsys, tmp_path
):
    present = (str(tmp_path),) if there else ()
    monkeypatch.setattr(machine, "_DEVICE_FILES", present)
    monkeypatch.setattr(machine, "PLUGINS", ())
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert command.main(plugin_fails) == status
    line = capsys.readouterr().err
    if not status:
        assert line == ""
    elif platforms:  # which is the cause, since no plugin is installed
        assert line.startswith("JAX_PLATFORMS=cuda, but no CUDA plugin is installed")
    else:
        assert "Unable to load cuDNN. Is it installed?: pip install -U" in line
    assert line.count("\n") == bool(status)


def test_no_script_starts_but_through_the_front_door():
    """So that what holds of `command.start` holds of each."""
    for path in (pathlib.Path(__file__).parents[2] / "experiments").glob("*.py"):
        if path.stem != "__init__":
            assert re.search(r"\bcommand\.(start|main)\(", path.read_text()), path

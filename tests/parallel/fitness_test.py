"""Machines that are fit, and one line with what to do for each that is not."""

import dataclasses
import re

import pytest

from nemojax.parallel import fitness
from nemojax.parallel.machine import Device, Gpu, Machine

H100 = Gpu(0, "NVIDIA H100 80GB HBM3", "580.65.06", (9, 0), 80 * 2**30)
T4 = Gpu(0, "Tesla T4", "580.65.06", (7, 5), 15 * 2**30)
V100 = Gpu(0, "Tesla V100-SXM2-16GB", "580.65.06", (7, 0), 16 * 2**30)
OLD_DRIVER = dataclasses.replace(H100, driver="550.54.14")
BUSY = dataclasses.replace(H100, used_bytes=30 * 2**30)
ON_GPU = (Device("gpu", H100.name, 60 * 2**30, True),)
ON_CPU = (Device("cpu", "cpu"),)
JAX = {"jax": "0.12.0.1", "jaxlib": "0.12.0.1"}
CUDNN = {"nvidia-cudnn-cu13": "9.12.0.46"}


def plugin(version: str, major: int = 13) -> dict[str, str]:
    return {f"jax-cuda{major}-{part}": version for part in ("plugin", "pjrt")}


FIT = Machine(
    versions=JAX | plugin("0.12.0.1") | CUDNN,
    minimum={"jaxlib": "0.11.2", **CUDNN},
    nvidia=True,
    gpus=(H100,),
    devices=ON_GPU,
)
CPU = Machine(versions=JAX, devices=ON_CPU)


@pytest.mark.parametrize(
    "machine",
    [
        FIT,
        CPU,
        dataclasses.replace(FIT, gpus=(T4,)),
        # Builds of one version, and zeros that are not written.
        dataclasses.replace(FIT, versions=FIT.versions | plugin("0.12.0.1+local")),
        dataclasses.replace(
            FIT, versions={"jax": "0.12", "jaxlib": "0.12", **plugin("0.12.0")}
        ),
        # What does not fit does not matter where the GPU is not asked for.
        dataclasses.replace(
            FIT,
            versions=JAX | plugin("0.11.0"),
            environment={"JAX_PLATFORMS": "cpu"},
            gpus=(OLD_DRIVER,),
            devices=ON_CPU,
        ),
        # An older driver that has started with NVIDIA's compatibility packages.
        dataclasses.replace(FIT, gpus=(OLD_DRIVER,)),
        # Another process' GPU, or another process that jax leaves room.
        dataclasses.replace(
            FIT,
            gpus=(BUSY, dataclasses.replace(H100, index=1)),
            environment={"CUDA_VISIBLE_DEVICES": "1"},
        ),
        dataclasses.replace(
            FIT, gpus=(BUSY,), environment={"XLA_PYTHON_CLIENT_MEM_FRACTION": ".5"}
        ),
        dataclasses.replace(
            FIT, gpus=(BUSY,), environment={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        ),
    ],
)
def test_a_machine_that_is_fit_has_no_problem(machine):
    assert fitness.problems(machine) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"versions": JAX | plugin("0.11.0", 13) | {"jax-cuda13-pjrt": "0.12.0.1"}},
            "jax-cuda13-plugin 0.11.0 does not fit jaxlib 0.12.0.1: they have "
            "to be of one version: pip install -U 'jax[cuda13]==0.12.0.1'",
        ),
        (
            {"versions": JAX | plugin("0.12.0.1") | {"jax-cuda13-pjrt": "0.12.1"}},
            "jax-cuda13-pjrt 0.12.1 does not fit jaxlib 0.12.0.1",
        ),
        (
            {"versions": JAX | plugin("0.11.0", 12) | {"jax-cuda12-pjrt": "0.12.0.1"}},
            "jax-cuda12-plugin 0.11.0 .* pip install -U 'jax[cuda12]==0.12.0.1'",
        ),
        (
            {"versions": JAX | plugin("0.12.0.1") | plugin("0.12.0.1", 12)},
            "jax-cuda13-plugin and jax-cuda12-plugin are both installed, jax takes one"
            ": pip uninstall -y jax-cuda12-plugin jax-cuda12-pjrt && pip install",
        ),
        (
            {"versions": FIT.versions | {"nvidia-cudnn-cu13": "9.8.1"}},
            "nvidia-cudnn-cu13 9.8.1 is older than 9.12.0.46: pip install -U nvid",
        ),
        (
            {"versions": FIT.versions | {"nvidia-cudnn-cu12": "9.12.0.46"}},
            "nvidia-cudnn-cu13 and nvidia-cudnn-cu12 write the same files, and one is "
            "broken: pip uninstall -y nvidia-cudnn-cu13 nvidia-cudnn-cu12 && pip insta",
        ),
        (
            {"versions": {"jax": "0.12.0.1", "jaxlib": "0.10.0"}, "devices": ()},
            "jaxlib 0.10.0 is older than 0.11.2: pip install -U jaxlib",
        ),
        (
            {"versions": {"jax": "0.11.0", "jaxlib": "0.12.0"}, "devices": ()},
            "jaxlib 0.12.0 is newer than jax 0.11.0: pip install -U jax==0.12.0",
        ),
        (
            {"gpus": (OLD_DRIVER,), "devices": ()},
            "GPU 0 (NVIDIA H100 80GB HBM3) has driver 550.54.14, CUDA 13 needs 580 or "
            "newer: update it, or pip uninstall -y jax-cuda13-plugin jax-cuda13-pjrt "
            "&& pip install -U 'jax[cuda12]==0.12.0.1', or set JAX_PLATFORMS=cpu",
        ),
        (
            {"gpus": (V100,), "devices": ()},
            "GPU 0 (Tesla V100-SXM2-16GB) has compute capability 7.0, jax-cuda13-"
            "plugin needs 7.5: pip uninstall .* 'jax[cuda12]==0.12.0.1', or take",
        ),
        (
            {"gpus": (BUSY,)},
            "GPU 0 (NVIDIA H100 80GB HBM3): processes hold 30.0 GiB of 80.0 GiB and "
            "jax takes 75%: end them .* or set XLA_PYTHON_CLIENT_MEM_FRACTION=0.57",
        ),
        (
            {"devices": ON_CPU},
            "an NVIDIA GPU is there, but jax computes on the CPU: its CUDA plugin did "
            "not start: pip install -U 'jax[cuda13]==0.12.0.1'",
        ),
        (
            {"versions": JAX, "devices": ON_CPU},
            "an NVIDIA GPU is there, but jax computes on the CPU: its CUDA plugin is "
            "not installed: pip install -U 'jax[cuda13]==0.12.0.1'",
        ),
        (
            {"versions": JAX, "devices": (), "environment": {"JAX_PLATFORMS": "cuda"}},
            "JAX_PLATFORMS=cuda, but no CUDA plugin is installed: pip install -U "
            "'jax[cuda13]==0.12.0.1', or unset it",
        ),
        (
            {"nvidia": False, "devices": (), "environment": {"JAX_PLATFORMS": "gpu"}},
            "JAX_PLATFORMS=gpu, but no NVIDIA GPU is visible: load the driver, give",
        ),
        (
            {"devices": (), "environment": {"JAX_PLATFORMS": "tpu"}},
            "JAX_PLATFORMS=tpu, but libtpu is not installed: pip install -U 'jax[tpu]'",
        ),
        ({"devices": (), "error": "a\n b"}, "jax has no devices: a b"),
    ],
)
def test_each_fault_has_one_line_with_what_to_do(change, line):
    (found,) = fitness.problems(dataclasses.replace(FIT, **change))
    pattern = re.escape(line).replace(r"\.\*", ".*")
    assert re.match(pattern, found), found


@pytest.mark.parametrize(
    "broken",
    [
        dataclasses.replace(FIT, versions=JAX | plugin("0.11.0")),
        dataclasses.replace(FIT, versions=JAX | plugin("0.11.0", 12)),
        dataclasses.replace(FIT, versions=JAX | plugin("0.12.0.1", 12) | plugin("0.1")),
        dataclasses.replace(FIT, gpus=(OLD_DRIVER,), devices=()),
        dataclasses.replace(FIT, gpus=(V100,), devices=()),
        dataclasses.replace(FIT, versions=JAX, devices=ON_CPU, gpus=(V100,)),
    ],
)
def test_what_is_told_to_be_installed_mends_the_machine(broken):
    assert fitness.problems(broken)
    command = fitness.install(broken)
    removed = re.findall(r"jax-cuda\d\d-\w+", command)
    installed = re.search(r"jax\[cuda(\d\d)\]==([\d.]+)'", command)
    assert installed is not None
    versions = {k: v for k, v in broken.versions.items() if k not in removed}
    versions |= plugin(installed[2], int(installed[1]))
    mended = dataclasses.replace(broken, versions=versions, devices=ON_GPU)
    assert fitness.problems(mended) == []


def test_what_is_refused_before_jax_starts_is_a_problem_and_needs_no_device():
    broken = dataclasses.replace(FIT, versions=JAX | plugin("0.11.0"))
    known = Machine(broken.versions, broken.minimum, nvidia=True)
    assert fitness.refusals(known) == fitness.problems(known)[:2] != []
    assert fitness.refusals(dataclasses.replace(known, nvidia=False)) == []
    # Where jax may still find its way it is not told in advance.
    assert fitness.refusals(dataclasses.replace(FIT, gpus=(BUSY,), devices=())) == []


def test_a_cause_is_named_instead_of_what_jax_says_of_it():
    environment = {"JAX_PLATFORMS": "cuda"}
    line = fitness.explain(Machine(JAX, environment=environment), "no such backend")
    assert line.startswith("JAX_PLATFORMS=cuda, but no CUDA plugin is installed")
    line = fitness.explain(
        dataclasses.replace(FIT, environment=environment, devices=()),
        "Unable to load cuDNN.\n (set JAX_PLATFORMS='' to choose)",
    )
    assert line == (
        "jax's devices do not start: Unable to load cuDNN: pip install -U "
        "'jax[cuda13]==0.12.0.1', or unset JAX_PLATFORMS=cuda; "
        "python -m experiments.doctor says more"
    )

"""Every test runs on the CPU, split into enough devices for a small mesh."""

import os
import shutil
import tempfile

import hypothesis
import pytest

DEVICES = 8

# Before the first test imports jax, which reads both once.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} "
        f"--xla_force_host_platform_device_count={DEVICES}"
    ).strip()
# Most of the time goes to compiling; what is slower for it does not compute for long.
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=1"

# All processes of a run share what they compile, and leave nothing of it behind.
_KEPT = "JAX_COMPILATION_CACHE_DIR"
_OWN = _KEPT not in os.environ
if _OWN:
    os.environ[_KEPT] = tempfile.mkdtemp(prefix="compiled-")


def pytest_unconfigure():
    """Removes what was compiled, in the process that began to keep it."""
    if _OWN:
        shutil.rmtree(os.environ[_KEPT], ignore_errors=True)


# On a busy machine drawing an example takes long, which is no fault of what is tested.
hypothesis.settings.register_profile(
    "any_speed",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("any_speed")


@pytest.fixture(scope="module")
def quick_compile():
    """For modules that mostly compile: half the time, for slower programs."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)

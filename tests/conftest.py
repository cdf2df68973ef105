"""Every test runs on the CPU, split into enough devices for a small mesh."""

import os

DEVICES = 8

# Before the first test imports jax, which reads both once.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} "
        f"--xla_force_host_platform_device_count={DEVICES}"
    ).strip()

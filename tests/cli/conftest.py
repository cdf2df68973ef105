"""The scripts as modules, one at a time: their flags are those of the process."""

import pytest

from tests import scripts


@pytest.fixture
def script(monkeypatch):
    """Loads a script in place of the one before: its docstring."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # `plan` sets it
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    yield lambda name: scripts.load(f"experiments.{name}").__doc__ or ""
    scripts.forget()

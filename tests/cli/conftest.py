"""The scripts as modules, one at a time: their flags are those of the process."""

import importlib.util
import pathlib

import pytest
from absl import flags

from nemojax.cli import command_line

FOLDER = pathlib.Path(__file__).parents[2] / "experiments"


def forget() -> None:
    for flag in command_line.own_flags():
        delattr(flags.FLAGS, flag.name)


@pytest.fixture
def script(monkeypatch):
    """Loads a script in place of the one before: its docstring."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # `plan` sets it
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    forget()

    def load(name: str) -> str:
        path = FOLDER / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"experiments.{name}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(command_line.sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module.__doc__ or ""

    yield load
    forget()

"""A work folder that several processes see: the first one holds it, all do its work.

With one process it is a `Workdir`.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemojax.io.workdir import StageOutput, Workdir
from nemojax.parallel import processes


class SharedWorkdir:
    """The folder of one run.

    Attributes:
      path: absolute; the same folder on every host.
    """

    def __init__(self, path: str | Path, configuration: dict[str, Any]):
        """Opens or creates the folder. Arguments and errors: as of `Workdir`.

        Raises:
          FirstProcessError: in the other processes, where the first has an error.
        """
        self.path = Path(path).absolute()
        self._held: Workdir | None = None
        processes.of_first(functools.partial(self._hold, configuration))

    def _hold(self, configuration: dict[str, Any]) -> None:
        self._held = Workdir(self.path, configuration)

    def stage(self, name: str, run: Callable[[Path], dict[str, Any]]) -> StageOutput:
        """Runs a stage in all processes, or reads what it left if it is finished.

        Args:
          name: a file name.
          run: see `Workdir.stage`; what it returns in the first process counts.
        """

        def together(directory: Path) -> dict[str, Any]:
            processes.barrier(f"{name} begins")  # the folder is there
            return run(directory)

        finished = processes.of_first(lambda: (self.path / name).exists())
        output = None
        if self._held is not None:
            output = self._held.stage(name, together)
        elif not finished:
            together(self.path / f"{name}.partial")
        fields = processes.of_first(lambda: _fields(output))
        return StageOutput(**fields | {"directory": Path(fields["directory"])})

    def close(self) -> None:
        """Releases the folder."""
        if self._held is not None:
            self._held.close()


def _fields(output: StageOutput | None) -> dict[str, Any]:
    assert output is not None
    return dataclasses.asdict(output) | {"directory": str(output.directory)}

"""Sources of a run's batches."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol


class Source(Protocol):
    """Batches by step, as pytrees of numpy arrays.

    Attributes:
      on_policy: Whether batch k is made with the parameters before step k. Otherwise it
        depends on k alone, and is made while the step before it is taken.
    """

    @property
    def on_policy(self) -> bool:
        """True if the batches depend on the parameters."""
        ...

    def __len__(self) -> int:
        """Returns the number of steps."""
        ...

    def batch(self, k: int, params: Any) -> Any:
        """Makes the batch of step k, from 0.

        A run is resumed bit for bit only if the batch is a function of its arguments.

        Args:
          k: the step.
          params: trained parameters before step k, as the layout has them, where
            `on_policy`; otherwise None. The step donates them: what is kept of them
            longer has to be copied.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A source whose batches do not depend on the parameters."""

    batches: Sequence[Any]
    on_policy = False

    def __len__(self) -> int:
        return len(self.batches)

    def batch(self, k: int, params: Any) -> Any:
        """Returns `batches[k]`."""
        del params
        return self.batches[k]
